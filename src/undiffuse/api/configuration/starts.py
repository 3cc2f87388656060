"""Starting points of a training: a recipe, data, a configuration file, or a run to resume.

Imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undiffuse.checksums import read_json
from undiffuse.errors import UsageError
from undiffuse.recipes import RECIPES
from undiffuse.wording import command


def check_beginning(
    recipe: str | None,
    data: str | None,
    file: Path | None,
    resume: bool,
    out: Path | None,
    start: str | Path | None = None,
) -> None:
    """Check that the starting point of a training is specified exactly once.

    Args:
        recipe: its name, if given.
        data: value of ``--data``, if given.
        file: value of ``--config``, if given.
        resume: whether a run is resumed.
        out: folder of the run, if given.
        start: model to fine-tune, if given.
    Raises:
        UsageError: with what to add or to leave out.
    """
    if start is not None:
        _check_fine_tuning(recipe, data, file, resume)
        return
    if file is not None and (recipe is not None or resume):
        other = f"the recipe {recipe!r}" if recipe is not None else "--resume"
        raise UsageError(f"--config gives the whole configuration, and so does {other}; leave one of them out")
    if recipe is not None:
        _check_not_data(recipe, data)
    elif file is None and not (resume and out is not None) and (data is None or resume):
        raise UsageError(
            "name your images with --data FOLDER, and a suitable recipe is chosen; or name a recipe "
            "('undiffuse recipes' lists them), or a run to resume: --resume --out DIR"
        )


def _check_fine_tuning(recipe: str | None, data: str | None, file: Path | None, resume: bool) -> None:
    """Check that a model to fine-tune is given with data, and without another configuration."""
    if resume:
        raise UsageError("a run that started from a model is resumed without it: --resume --out DIR; leave --from out")
    if recipe is not None or file is not None:
        other = f"the recipe {recipe!r}" if recipe is not None else "--config"
        raise UsageError(
            f"--from uses the configuration of the model, and {other} gives another; leave one of them out"
        )
    if data is None:
        raise UsageError("--from needs the images to fine-tune on; name them with --data FOLDER")


def _check_not_data(recipe: str, data: str | None) -> None:
    """Raise if the argument for the recipe is data, with the command for data."""
    if data is None and recipe not in RECIPES and Path(recipe).expanduser().exists():
        typed = command("train", "--data", recipe)
        raise UsageError(f"{recipe!r} is data and no recipe; choose a suitable recipe with: {typed}")


def check_resumed(out: Path | None, resume: bool) -> None:
    """Check that a run to resume is given.

    Args:
        out: folder of the run, if given.
        resume: whether a run is resumed.
    """
    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to resume")


def record_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file, or in the ``config.json`` of a folder.

    Raises:
        UsageError: no such file, or one that holds no configuration.
    """
    file = config_file(file)
    try:
        record = read_json(file)
    except OSError as error:
        raise UsageError(f"--config {file} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UsageError(f"--config {file} is no JSON ({error}); name a run's config.json") from None
    if not isinstance(record, dict):
        raise UsageError(f"--config {file} holds no configuration: expected a JSON object; name a run's config.json")
    if "format_version" in record and not isinstance(record.get("config"), dict):
        raise UsageError(f"--config {file} lacks its part config; name a run's config.json")
    return record


def config_file(file: Path) -> Path:
    """The path of the file; for a folder, that of its ``config.json``."""
    return file / "config.json" if file.is_dir() else file
