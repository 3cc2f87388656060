"""File locks: only one process at a time writes to a path; a second one gets an error that names the first.

A claim is a lock on ``.NAME.lock`` next to the path. The operating system releases it when its process ends, even by a
crash, and forked processes do not inherit it. If the file system or the platform has no locks, a warning is logged and
the path is unprotected. Any package may import this module.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

from undiffuse.errors import UsageError
from undiffuse.files import LOCK_ENDING, is_empty, resolve_target, translate_os_errors
from undiffuse.leftovers import remove_leftovers_of

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("undiffuse")

_LOCKED = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class HeldError(UsageError):
    """Another process, or another thread of this process, holds the claim."""


@dataclass
class _Claim:
    """A claim that this process holds; it is reentrant for the thread that holds it."""

    process: int
    thread: int
    since: str
    depth: int = 1
    guarded: bool = True


_CLAIMS: dict[Path, _Claim] = {}
_CLAIMS_LOCK = threading.Lock()


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[bool]:
    """Lock ``path``, a file or folder to write, existing or not, against all other writers inside this context.

    Removes temporary files of dead processes next to it. Creates missing parent folders, and removes them again if they
    stay empty. Does nothing if ``path`` is ``None``.

    Yields:
        whether the path is protected: False if there are no locks.
    Raises:
        HeldError: another writer holds it; the message names the holder and the start time.
        UsageError: the path cannot be written to.
    """
    if path is None:
        yield False
        return
    target = resolve_target(path)
    with _thread_claim(path, target) as claim:
        if claim.depth == 1:
            with _parents(path, target), _lock(path, target, claim):
                remove_leftovers_of(target)
                yield claim.guarded
        else:
            yield claim.guarded


def locks(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator for functions that write to their argument ``name``, a path or ``None``: claims it while they run."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = parameters.bind(*args, **kwargs).arguments.get(name)
            with locked(None if given is None else Path(given)):
                return function(*args, **kwargs)

        return call

    return decorate


@contextlib.contextmanager
def new_folder(parent: Path, stem: str) -> Iterator[Path]:
    """Create and claim ``parent/stem-001``, or the first unused number; it is removed again if it stays empty.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as locking:
        for number in itertools.count(1):
            path = parent / f"{stem}-{number:03d}"
            if _is_claimed_here(path) or (path.exists() and not _is_free(path)):
                continue
            try:
                guarded = locking.enter_context(locked(path))
            except HeldError:
                continue
            created = _create(path)
            if (created or guarded) and _is_free(path):  # else another writer has filled it meanwhile
                break
            locking.close()
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.rmdir()


def _is_claimed_here(path: Path) -> bool:
    """Whether this process has claimed it: claims are reentrant, so claiming it again would succeed."""
    claim = _CLAIMS.get(resolve_target(path))
    return claim is not None and claim.process == os.getpid()


def _is_free(path: Path) -> bool:
    return path.is_dir() and is_empty(path)


def _create(folder: Path) -> bool:
    """Create a folder; False if it exists already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError:
        with translate_os_errors(folder):
            raise
    return True


@contextlib.contextmanager
def output_folder(requested: Path | None, parent: Path, stem: str) -> Iterator[Path]:
    """The requested folder, or a new one, see ``new_folder``."""
    if requested is not None:
        yield requested
    else:
        with new_folder(parent, stem) as folder:
            yield folder


@contextlib.contextmanager
def _thread_claim(path: Path, target: Path) -> Iterator[_Claim]:
    """The claim with respect to the other threads of this process."""
    process, thread = os.getpid(), threading.get_ident()
    with _CLAIMS_LOCK:
        claim = _CLAIMS.get(target)
        if claim is None or claim.process != process:  # copied from the parent process by a fork
            claim = _CLAIMS[target] = _Claim(process, thread, f"{datetime.now():%Y-%m-%d %H:%M:%S}")
        elif claim.thread == thread:
            claim.depth += 1
        else:
            raise HeldError(_held_message(path, f"another thread of this process, since {claim.since}"))
    try:
        yield claim
    finally:
        with _CLAIMS_LOCK:
            claim.depth -= 1
            if not claim.depth and _CLAIMS.get(target) is claim:
                del _CLAIMS[target]


@contextlib.contextmanager
def _parents(path: Path, target: Path) -> Iterator[None]:
    """Create the missing parent folders, and remove them again if they stay empty."""
    missing = [folder for folder in target.parents if not folder.exists()]
    with translate_os_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def _lock(path: Path, target: Path, claim: _Claim) -> Iterator[None]:
    """The claim with respect to other processes."""
    fcntl = _fcntl()
    file = _lock_file(target)
    with translate_os_errors(path):
        descriptor = _acquire_lock(fcntl, path, file, claim.since) if fcntl is not None else None
    claim.guarded = descriptor is not None
    if descriptor is None:
        _log.warning("note: no file locks on this system: another command could write to %s at the same time", path)
    try:
        yield
    finally:
        if descriptor is not None and os.getpid() == claim.process:
            with contextlib.suppress(OSError):
                file.unlink()  # before the lock is released: a waiting process detects the new file, see _is_same_file
            os.close(descriptor)


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    return fcntl


def _lock_file(target: Path) -> Path:
    """Next to the path; inside the folder if its parent is not writable, such as for a mount point."""
    if target.is_dir() and (not target.name or not os.access(target.parent, os.W_OK)):
        return target / LOCK_ENDING
    return target.with_name(f".{target.name}{LOCK_ENDING}")


def _acquire_lock(fcntl: ModuleType, path: Path, file: Path, since: str) -> int | None:
    """A descriptor that holds the lock, or ``None`` if locks are not supported.

    This is a POSIX record lock: it belongs to the process, not to the open file description, which forked processes
    would inherit and could keep locked; and it works over NFS.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(descriptor, file):
                _write_holder(descriptor, since)
                return descriptor
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _LOCKED:
                raise HeldError(_held_message(path, holder)) from None
            if error.errno in _NO_LOCKS:
                with contextlib.suppress(OSError):
                    file.unlink()
                return None
            raise
        os.close(descriptor)


def _is_same_file(descriptor: int, file: Path) -> bool:
    """Whether the path still refers to the opened file: the previous holder may have removed it meanwhile."""
    ours = os.fstat(descriptor)
    try:
        there = file.lstat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _write_holder(descriptor: int, since: str) -> None:
    """Write the holder into the lock file; a full disk is no error, for the lock does not need the text."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {str(holder['host'])!s}, since {str(holder['since'])!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _held_message(path: Path, holder: str) -> str:
    return f"{path} is being written by {holder}; wait until it has ended, or choose another path"
