"""Shell completion of names of rows, models and classes. Imports nothing heavy, because it runs on a key press.

Each function takes the incomplete word and returns the possible completions; typer calls them.
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
    """Complete one name of the registry ``module:NAME``, which is parsed and not imported."""
    return lambda incomplete: _matching(names_in(registry), incomplete)


def several(registry: str) -> Completion:
    """Complete the last name of a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in _matching(names_in(registry), last)]

    return complete


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    return rows("undiffuse.recipes:RECIPES")(incomplete)


def models(incomplete: str) -> list[str]:
    """Bundled models, and folders."""
    return [*_matching(bundled_models(), incomplete), *_paths(incomplete, files=False)]


def data(incomplete: str) -> list[str]:
    """Source names, files and folders; for ``name:path``, the path."""
    name, colon, path = incomplete.partition(":")
    if colon and name in names_in(_SOURCES):
        return [f"{name}:{found}" for found in _paths(path, files=True)]
    return [*_matching(names_in(_SOURCES), incomplete), *_paths(incomplete, files=True)]


def subjects(incomplete: str) -> list[str]:
    """Subjects of ``doctor``: models and data."""
    return list(dict.fromkeys([*models(incomplete), *data(incomplete)]))


def sets(incomplete: str) -> list[str]:
    """Public data sets."""
    return rows(_SETS)(incomplete)


def devices(incomplete: str) -> list[str]:
    """Kinds of device."""
    return _matching(("auto", "cpu", "cuda"), incomplete)


def weights(incomplete: str) -> list[str]:
    """Kinds of weights."""
    return _matching(("ema", "raw"), incomplete)


def classes(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model named earlier on the command line."""
    words = [context.params.get("model"), *getattr(context, "args", ())]  # arguments that the parser has not consumed
    for word in filter(None, words):
        try:
            return _matching(names.class_names(find_model(word)) or (), incomplete)
        except (UndiffuseError, TypeError):
            continue
    return []


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that start with ``incomplete``, ignoring case."""
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]


def _paths(incomplete: str, *, files: bool) -> Iterator[str]:
    """Paths that start with ``incomplete``; hidden ones only if the dot was typed."""
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
