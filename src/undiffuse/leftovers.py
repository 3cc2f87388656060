"""Temporary names that say who writes under them, and removing what dead processes have left.

A temporary file or folder lies next to what it will become, ``.NAME.PROCESS-THREAD@HOST.tmp``. It is a leftover when
its process is no more; of a process on another host nothing is known, and its files are left for a day. Any room may
import this module.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import re
import shutil
import threading
import time
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)(?:-\d+)?(?:@(?P<host>[0-9a-f]{8}))?(?:\.[a-z]+)?\.tmp")
#: What stood at a place while the new is put there; a process that dies in between has removed it from its place.
_ASIDE = ".old.tmp"
#: A process that began so much later than a file was last changed has its number from one that is no more.
_CLOCKS_AGREE_SECONDS = 60.0
_UNTOUCHED_SECONDS = 24 * 3600.0


def temporary_next_to(path: Path) -> Path:
    """A name next to ``path`` that no other thread of no other process on no other host takes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}@{_host()}.tmp")


def backup_path(temporary: Path) -> Path:
    """Where to move what stands in the place of a temporary that is done."""
    return temporary.with_suffix(_ASIDE)


def is_temporary(path: Path) -> bool:
    """Whether a name is a temporary's."""
    return _NAME.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete the leftovers in a folder and all folders in it; links are not followed."""
    for root, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if _NAME.fullmatch(name):
                _finalize(Path(root, name))
        folders[:] = [name for name in folders if not _NAME.fullmatch(name)]


def remove_leftovers_of(path: Path) -> None:
    """Delete the leftovers of whoever wrote ``path``."""
    for found in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
        if (match := _NAME.fullmatch(found.name)) and match["name"] == path.name:
            _finalize(found)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, there or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _finalize(path: Path) -> None:
    """Remove a leftover, or put it back where its process had just made room for what it did not come to put there."""
    with contextlib.suppress(OSError):  # another process may be removing it too, or it may not be ours to remove
        match = _NAME.fullmatch(path.name)
        if match is None or not _is_left(path, match):
            return
        place = path.with_name(match["name"])
        if path.name.endswith(_ASIDE) and not os.path.lexists(place):
            path.rename(place)
        else:
            remove(path)


def _is_left(path: Path, match: re.Match[str]) -> bool:
    changed = path.lstat().st_mtime
    if os.name != "posix" or (match["host"] or _host()) != _host():
        return time.time() - changed > _UNTOUCHED_SECONDS
    return not _lives(int(match["process"]), changed)


def _lives(process: int, at: float) -> bool:
    """Whether the process that had this number at a time (seconds since 1970) is still there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    began = _began(process)
    return began is None or began - at <= _CLOCKS_AGREE_SECONDS


def _began(process: int) -> float | None:
    """When a process began, in seconds since 1970; ``None`` where the system does not tell."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
        return float(boot[1]) + int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK") if boot else None
    except (OSError, ValueError, IndexError):
        return None


@cache
def _host() -> str:
    """8 hex digits of a host; containers, where processes are numbered anew, count as hosts."""
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbering = ""
    return hashlib.blake2b(f"{platform.node()} {numbering}".encode(), digest_size=4).hexdigest()
