"""The folder of a run: whether training has produced any output, removal of unstarted runs, and a check for links."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.files import is_empty, is_temporary_or_lock
from undiffuse.models.files.components import MAIN, components_of
from undiffuse.models.saved import read_config

CHECKPOINTS, SNAPSHOTS, PREVIEWS, BOARD = "checkpoints", "snapshots", "previews", "tensorboard"
_EVIDENCE = re.compile(r"nonfinite_step_\d+")
PRIOR = "prior.safetensors"
_BEGINS_WITH = ("config.json", "metrics.jsonl", BOARD, PRIOR)


def not_started(run: Path) -> bool:
    """Whether a run failed or was killed before it produced any output.

    Apart from its configuration it has no checkpoint, no weights and no row of the metrics log; it may have evidence of
    a non-finite value.
    """
    try:
        read_config(run)
    except UsageError:
        return False
    parts = files_of_parts(run)
    return all(_is_no_output(path) or path.name in parts for path in run.iterdir())


def _is_no_output(path: Path) -> bool:
    if path.name == "metrics.jsonl":
        return path.stat().st_size == 0
    if path.name in (CHECKPOINTS, SNAPSHOTS, PREVIEWS):
        return path.is_dir() and is_empty(path)
    return path.name in _BEGINS_WITH or bool(_EVIDENCE.fullmatch(path.name)) or is_temporary_or_lock(path)


def files_of_parts(run: Path) -> tuple[str, ...]:
    """Names of the files of a model's frozen parts; empty if ``config.json`` is invalid."""
    try:
        components = components_of(read_config(run))
    except UsageError:
        return ()
    return tuple(entry.weights for name, entry in components.items() if name != MAIN and entry.weights is not None)


def remove_unstarted(run: Path) -> None:
    """Remove the files of an unstarted run, unless it has evidence of a non-finite value."""
    if not not_started(run) or any(_EVIDENCE.fullmatch(path.name) for path in run.iterdir()):
        return
    for name in (*files_of_parts(run), *_BEGINS_WITH):
        path = run / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for name in (CHECKPOINTS, SNAPSHOTS, PREVIEWS):
        if (run / name).is_dir():
            (run / name).rmdir()


def check_no_links(run: Path) -> None:
    """Check that a run's folder contains no links to other folders, so that only the run's folder is written to.

    Raises:
        UsageError: if there is a link.
    """
    inner = [path for name in (CHECKPOINTS, SNAPSHOTS, PREVIEWS) for path in (run / name).glob("*")]
    for path in [*run.glob("*"), *inner]:
        if path.is_symlink() and path.is_dir():
            raise UsageError(
                f"{path} is a link to {path.readlink()}, but a run may only write into its own folder; move the folder "
                f"there, or make {run} the link"
            )
