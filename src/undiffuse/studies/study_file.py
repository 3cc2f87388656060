"""The file of a finished study. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError


def study_file(folder: Path) -> Path:
    """The file in a study's folder that holds its results.

    Raises:
        UsageError: no study there.
    """
    path = folder / "study.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no study: it has no study.json; make one with: undiffuse study")
    return path
