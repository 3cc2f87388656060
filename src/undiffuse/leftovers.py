"""Temporary names that contain the writing process, and removal of temporary files of dead processes.

A temporary file or folder is next to its destination and named ``.NAME.PROCESS-THREAD@HOST.tmp``. It is a leftover if
its process has ended. Processes on other hosts cannot be checked; their files are leftovers after a day without
changes. Any package may import this module.
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
#: Suffix of the previous version while the new one is renamed; if the process dies in between, it has to be restored.
_ASIDE = ".old.tmp"
#: A process that started this much later than a file's last change has reused the id of a dead process.
_CLOCKS_AGREE_SECONDS = 60.0
_UNTOUCHED_SECONDS = 24 * 3600.0


def temporary_next_to(path: Path) -> Path:
    """A name next to ``path`` that is unique to this thread, process and host."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}@{_host()}.tmp")


def backup_path(temporary: Path) -> Path:
    """Where to move the previous version before a finished temporary file is renamed."""
    return temporary.with_suffix(_ASIDE)


def is_temporary(path: Path) -> bool:
    """Whether a path is a temporary file, by its name."""
    return _NAME.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete the leftovers in a folder and all its subfolders; links are not followed."""
    for root, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if _NAME.fullmatch(name):
                _clean_up(Path(root, name))
        folders[:] = [name for name in folders if not _NAME.fullmatch(name)]


def remove_leftovers_of(path: Path) -> None:
    """Delete the leftovers of earlier writers of ``path``."""
    for found in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
        if (match := _NAME.fullmatch(found.name)) and match["name"] == path.name:
            _clean_up(found)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _clean_up(path: Path) -> None:
    """Remove a leftover, or restore the previous version if its process died before it renamed the new one."""
    with contextlib.suppress(OSError):  # another process may be removing it too, or permission may be missing
        match = _NAME.fullmatch(path.name)
        if match is None or not _is_leftover(path, match):
            return
        target = path.with_name(match["name"])
        if path.name.endswith(_ASIDE) and not os.path.lexists(target):
            path.rename(target)
        else:
            remove(path)


def _is_leftover(path: Path, match: re.Match[str]) -> bool:
    changed = path.lstat().st_mtime
    if os.name != "posix" or (match["host"] or _host()) != _host():
        return time.time() - changed > _UNTOUCHED_SECONDS
    return not _is_alive(int(match["process"]), changed)


def _is_alive(process: int, at: float) -> bool:
    """Whether the process that had this id at a time (seconds since 1970) is still running."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        pass
    started = _start_time(process)
    return started is None or started - at <= _CLOCKS_AGREE_SECONDS


def _start_time(process: int) -> float | None:
    """When a process started, in seconds since 1970; ``None`` if the system does not report it."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
        return float(boot[1]) + int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK") if boot else None
    except (OSError, ValueError, IndexError):
        return None


@cache
def _host() -> str:
    """A host's identifier of 8 hex digits; a container, which has its own process ids, counts as a host."""
    try:
        pid_namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        pid_namespace = ""
    return hashlib.blake2b(f"{platform.node()} {pid_namespace}".encode(), digest_size=4).hexdigest()
