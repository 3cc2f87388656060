"""What stands in a run's folder: whether it has come to anything, and what may not be there."""

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
_BEGINS_WITH = ("config.json", "metrics.jsonl", BOARD)


def not_started(run: Path) -> bool:
    """Whether a run has come to nothing that could be gone on with or looked at: it broke down, or was killed, at once.

    Apart from its configuration there are no checkpoint, no weights and no row of the metrics log; what it may have
    left is the evidence of a number that was not finite.
    """
    try:
        read_config(run)
    except UsageError:
        return False
    parts = files_of_parts(run)
    return all(_is_nothing(path) or path.name in parts for path in run.iterdir())


def _is_nothing(path: Path) -> bool:
    if path.name == "metrics.jsonl":
        return path.stat().st_size == 0
    if path.name in (CHECKPOINTS, SNAPSHOTS, PREVIEWS):
        return path.is_dir() and is_empty(path)
    return path.name in _BEGINS_WITH or bool(_EVIDENCE.fullmatch(path.name)) or is_temporary_or_lock(path)


def files_of_parts(run: Path) -> tuple[str, ...]:
    """Names of the files that a model's frozen parts lie in; none where ``config.json`` does not say it well."""
    try:
        components = components_of(read_config(run))
    except UsageError:
        return ()
    return tuple(entry.weights for name, entry in components.items() if name != MAIN and entry.weights is not None)


def remove_unstarted(run: Path) -> None:
    """Remove what a run that has come to nothing made, unless it holds evidence of why."""
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
    """Refuse a run whose folders lead elsewhere: a run from elsewhere could be written to any place.

    Raises:
        UsageError: names the link.
    """
    inner = [path for name in (CHECKPOINTS, SNAPSHOTS, PREVIEWS) for path in (run / name).glob("*")]
    for path in [*run.glob("*"), *inner]:
        if path.is_symlink() and path.is_dir():
            raise UsageError(
                f"{path} is a link to {path.readlink()}, and a run writes into its own folder alone; put the folder "
                f"itself there, or make {run} the link"
            )
