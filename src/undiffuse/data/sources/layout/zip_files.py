"""Detection of zip archives by their content. Imports neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path

_SIGNATURES = (b"PK\3\4", b"PK\5\6")  # of a member, and of the end record of an empty archive


def looks_like_zip(path: Path) -> bool:
    """Whether a file starts like a zip archive, or has the extension of one."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _SIGNATURES or path.suffix.lower() == ".zip"
    except OSError:
        return path.suffix.lower() == ".zip"
