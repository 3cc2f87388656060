"""A folder for compiled code that nobody else can write to: what lies in it is loaded and run."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path


@cache
def private(folder: Path) -> Path:
    """``folder``, made for this user alone; where it is not private, a temporary one that goes with this process.

    Args:
        folder: of a cache of compiled code; need not exist.
    """
    why = why_not_private(folder)
    if not why:
        return folder
    warnings.warn(
        f"compiled code is kept for this process alone, for {folder} {why}; remove it, or name another cache with "
        "XDG_CACHE_HOME",
        RuntimeWarning,
        stacklevel=2,
    )
    temporary = Path(tempfile.mkdtemp(prefix="undiffuse-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def why_not_private(folder: Path) -> str:
    """Why others could have put something into ``folder``, which is made where it is not there; "" for no reason."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        return f"cannot be made ({error.strerror or error})"
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    return _why_foreign(status) or _closed(folder, status)


def why_not_own(file: Path) -> str:
    """Why a file in a private folder is not this user's own; "" for no reason."""
    try:
        return _why_foreign(file.stat())
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _why_foreign(status: os.stat_result) -> str:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "could be written to by others"
    return ""


def _closed(folder: Path, status: os.stat_result) -> str:
    """Nobody else could write; now nobody else can read either."""
    if stat.S_IMODE(status.st_mode) != 0o700:
        try:
            folder.chmod(0o700)
        except OSError as error:
            return f"cannot be closed to others ({error.strerror or error})"
    return ""
