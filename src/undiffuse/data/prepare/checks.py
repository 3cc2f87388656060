"""Where an archive of prepared images may be written. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.files import check_writable


def check_archive(out: Path, overwrite: bool) -> None:
    """Refuse what cannot become an archive, or may not be replaced.

    Raises:
        UsageError: says which.
    """
    if out.suffix.lower() != ".zip":
        raise UsageError(f"--out {out}: expected the name of an archive, ending in .zip")
    if out.is_dir() or (out.exists() and not overwrite):
        what = "is a folder; name a file" if out.is_dir() else "is there already; name another or add --overwrite"
        raise UsageError(f"--out {out} {what}")
    check_writable(out)
