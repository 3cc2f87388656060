"""Checks of the output path of an archive. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.files import check_writable


def check_archive(out: Path, overwrite: bool) -> None:
    """Check that an archive can be written to a path.

    Raises:
        UsageError: the suffix is not .zip, the path exists and must not be replaced, or it is not writable.
    """
    if out.suffix.lower() != ".zip":
        raise UsageError(f"--out {out}: expected the name of an archive, ending in .zip")
    if out.is_dir() or (out.exists() and not overwrite):
        what = "is a folder; name a file" if out.is_dir() else "exists already; name another or add --overwrite"
        raise UsageError(f"--out {out} {what}")
    check_writable(out)
