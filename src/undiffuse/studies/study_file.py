"""The file of a finished study. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError


def study_file(folder: Path) -> Path:
    """Path of the file with the results in a study's folder.

    Raises:
        UsageError: if the folder contains no study.
    """
    path = folder / "study.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no study: it has no study.json; make one with: undiffuse study")
    return path
