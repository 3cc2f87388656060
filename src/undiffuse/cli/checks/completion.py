"""What a shell may complete: names of rows, of models and of classes. Imports nothing heavy: a key press waits for it.

Each function takes what is typed so far and gives what it may become; typer's completion asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

from undiffuse.api.catalogue import bundled_models
from undiffuse.api.loading import find_model
from undiffuse.cli.checks import names
from undiffuse.cli.checks.outline import names_in
from undiffuse.errors import UndiffuseError

Completion = Callable[[str], list[str]]

_SOURCES, _SETS = "undiffuse.data.registry:SOURCES", "undiffuse.data.download.sets:SETS"


def rows(registry: str) -> Completion:
    """Of one name of a literal dict, ``module:NAME``, which is read and not imported."""
    return lambda incomplete: _beginning(names_in(registry), incomplete)


def several(registry: str) -> Completion:
    """Of names with commas between them: the last of them."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in _beginning(names_in(registry), last)]

    return complete


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    return rows("undiffuse.recipes:RECIPES")(incomplete)


def models(incomplete: str) -> list[str]:
    """Bundled names, and folders."""
    return [*_beginning(bundled_models(), incomplete), *_paths(incomplete, files=False)]


def data(incomplete: str) -> list[str]:
    """Sources that need no path, and files and folders; of ``name:path`` the path."""
    name, colon, path = incomplete.partition(":")
    if colon and name in names_in(_SOURCES):
        return [f"{name}:{found}" for found in _paths(path, files=True)]
    return [*_beginning(names_in(_SOURCES), incomplete), *_paths(incomplete, files=True)]


def subjects(incomplete: str) -> list[str]:
    """What the doctor examines: models and data."""
    return list(dict.fromkeys([*models(incomplete), *data(incomplete)]))


def sets(incomplete: str) -> list[str]:
    """Public data sets."""
    return rows(_SETS)(incomplete)


def devices(incomplete: str) -> list[str]:
    """Kinds of device."""
    return _beginning(("auto", "cpu", "cuda"), incomplete)


def weights(incomplete: str) -> list[str]:
    """Kinds of weights."""
    return _beginning(("ema", "raw"), incomplete)


def classes(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model that is named on the line already."""
    words = [context.params.get("model"), *getattr(context, "args", ())]  # the parser leaves arguments where they stood
    for word in filter(None, words):
        try:
            return _beginning(names.class_names(find_model(word)) or (), incomplete)
        except (UndiffuseError, TypeError):
            continue
    return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin so, in whatever case."""
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]


def _paths(incomplete: str, *, files: bool) -> Iterator[str]:
    """Names below a folder that go on so, as they were begun; hidden ones only where the dot is typed."""
    folder, slash, start = incomplete.rpartition("/")
    try:
        found = sorted(Path(folder + slash or ".").expanduser().iterdir())
    except OSError:
        return
    for path in found:
        if path.name.startswith(start) and (start.startswith(".") or not path.name.startswith(".")):
            if path.is_dir():
                yield f"{folder}{slash}{path.name}/"
            elif files:
                yield f"{folder}{slash}{path.name}"
