"""A folder for compiled code that other users cannot write to, since its files are loaded and executed."""

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
def ensure_private(folder: Path) -> Path:
    """``folder``, created with access for this user only; if it is not private, a temporary folder of this process.

    Args:
        folder: cache folder of compiled code; need not exist.
    """
    reason = reason_not_private(folder)
    if not reason:
        return folder
    warnings.warn(
        f"compiled code is cached for this process only, because {folder} {reason}; remove it, or set another cache "
        "folder with XDG_CACHE_HOME",
        RuntimeWarning,
        stacklevel=2,
    )
    temporary = Path(tempfile.mkdtemp(prefix="undiffuse-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def reason_not_private(folder: Path) -> str:
    """The reason why other users could write to ``folder``, or ""; the folder is created if it does not exist."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        return f"cannot be created ({error.strerror or error})"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    return _reason_foreign(status) or _restrict_access(folder, status)


def reason_not_owned(file: Path) -> str:
    """The reason why a file in a private folder may come from another user; "" if it does not."""
    try:
        return _reason_foreign(file.stat())
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _reason_foreign(status: os.stat_result) -> str:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "could be written to by others"
    return ""


def _restrict_access(folder: Path, status: os.stat_result) -> str:
    """Remove all permissions of other users; returns the reason if this fails, otherwise ""."""
    if stat.S_IMODE(status.st_mode) != 0o700:
        try:
            folder.chmod(0o700)
        except OSError as error:
            return f"cannot be made private ({error.strerror or error})"
    return ""
