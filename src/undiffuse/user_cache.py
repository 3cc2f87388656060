"""The user's cache folder, and the removal of old files from a part of it. Any package may import this module."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


def cache_home() -> Path:
    """``XDG_CACHE_HOME``, or ``~/.cache`` if that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def evict(files: Iterable[Path], limit: int) -> None:
    """Remove the least recently modified files until the rest fits; other processes may do the same concurrently.

    Args:
        files: all files that count, partial files of killed processes too.
        limit: of all together, in bytes.
    """
    entries = sorted(_entries(files))
    excess = sum(size for _, size, _ in entries) - limit
    for _, size, path in entries:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


def _entries(files: Iterable[Path]) -> Iterator[tuple[int, int, Path]]:
    """(time in ns, bytes, path) of each file that exists and is no link."""
    for path in files:
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status.st_mtime_ns, status.st_size, path
