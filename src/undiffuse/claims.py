"""One process at a time writes to a place: whoever comes second learns who is there.

A claim is a lock on ``.NAME.lock`` next to the place. The system releases it when its process ends, however it ends,
and processes that it forked do not inherit it. Where the file system or the platform knows no locks, one line says so
and nothing is guarded. Any room may import this module.
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

_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class HeldError(UsageError):
    """Another process, or another thread of this one, is writing there."""


@dataclass
class _Claim:
    """What this process holds; a thread may claim a place again inside of its own claim."""

    process: int
    thread: int
    since: str
    depth: int = 1
    guarded: bool = True


_CLAIMS: dict[Path, _Claim] = {}
_LOOKING = threading.Lock()


@contextlib.contextmanager
def claimed(path: Path | None) -> Iterator[bool]:
    """Keep ``path``, a file or folder that is written, there yet or not, from all other writers until the block ends.

    What dead writers have left next to it is removed. Folders above it that were not there are made, and removed again
    where they stay empty. Of no path there is nothing to keep.

    Gives:
        whether it is guarded: False where there are no locks.
    Raises:
        HeldError: somebody else is writing there; says who, and since when.
        UsageError: nothing can be written there.
    """
    if path is None:
        yield False
        return
    place = resolve_target(path)
    with _held_here(path, place) as claim:
        if claim.depth == 1:
            with _parents(path, place), _lock(path, place, claim):
                remove_leftovers_of(place)
                yield claim.guarded
        else:
            yield claim.guarded


def writes_to(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For functions that write to their argument ``name``, a path or ``None``: it is claimed while they run."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = parameters.bind(*args, **kwargs).arguments.get(name)
            with claimed(None if given is None else Path(given)):
                return function(*args, **kwargs)

        return call

    return decorate


@contextlib.contextmanager
def new_folder(parent: Path, stem: str) -> Iterator[Path]:
    """``parent/stem-001`` or the first number that nobody has: made, claimed, and removed again if it stays empty.

    Raises:
        UsageError: nothing can be written there.
    """
    with contextlib.ExitStack() as claims:
        for number in itertools.count(1):
            path = parent / f"{stem}-{number:03d}"
            if _is_held_here(path) or (path.exists() and not _is_free(path)):
                continue
            try:
                guarded = claims.enter_context(claimed(path))
            except HeldError:
                continue
            made = _make(path)
            if (made or guarded) and _is_free(path):  # or whoever had it has just filled it
                break
            claims.close()
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.rmdir()


def _is_held_here(path: Path) -> bool:
    """Whether this process has a claim on it: a thread would be given its own a second time."""
    claim = _CLAIMS.get(resolve_target(path))
    return claim is not None and claim.process == os.getpid()


def _is_free(path: Path) -> bool:
    return path.is_dir() and is_empty(path)


def _make(folder: Path) -> bool:
    """Make a folder; False if it is there already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError:
        with translate_os_errors(folder):
            raise
    return True


@contextlib.contextmanager
def chosen_folder(requested: Path | None, parent: Path, stem: str) -> Iterator[Path]:
    """The folder that was asked for, or else a new one, see ``new_folder``."""
    if requested is not None:
        yield requested
    else:
        with new_folder(parent, stem) as folder:
            yield folder


@contextlib.contextmanager
def _held_here(path: Path, place: Path) -> Iterator[_Claim]:
    """The claim among this process's threads."""
    process, thread = os.getpid(), threading.get_ident()
    with _LOOKING:
        claim = _CLAIMS.get(place)
        if claim is None or claim.process != process:  # a fork's copy of its parent's
            claim = _CLAIMS[place] = _Claim(process, thread, f"{datetime.now():%Y-%m-%d %H:%M:%S}")
        elif claim.thread == thread:
            claim.depth += 1
        else:
            raise HeldError(_complaint(path, f"another thread of this process, since {claim.since}"))
    try:
        yield claim
    finally:
        with _LOOKING:
            claim.depth -= 1
            if not claim.depth and _CLAIMS.get(place) is claim:
                del _CLAIMS[place]


@contextlib.contextmanager
def _parents(path: Path, place: Path) -> Iterator[None]:
    """Make the folders that are missing above a place, and take away again those that stay empty."""
    missing = [folder for folder in place.parents if not folder.exists()]
    with translate_os_errors(path):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def _lock(path: Path, place: Path, claim: _Claim) -> Iterator[None]:
    """The claim among processes."""
    fcntl = _fcntl()
    file = _lock_file(place)
    with translate_os_errors(path):
        descriptor = _locked(fcntl, path, file, claim.since) if fcntl is not None else None
    claim.guarded = descriptor is not None
    if descriptor is None:
        _log.warning("note: no locks on this system: nothing keeps a second command from writing to %s meanwhile", path)
    try:
        yield
    finally:
        if descriptor is not None and os.getpid() == claim.process:
            with contextlib.suppress(OSError):
                file.unlink()  # before the lock goes: who waits for the file finds that it is another, see _locked
            os.close(descriptor)


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    return fcntl


def _lock_file(place: Path) -> Path:
    """Next to the place; inside of a folder that stands where nothing else can be written, such as a mount."""
    if place.is_dir() and (not place.name or not os.access(place.parent, os.W_OK)):
        return place / LOCK_ENDING
    return place.with_name(f".{place.name}{LOCK_ENDING}")


def _locked(fcntl: ModuleType, path: Path, file: Path, since: str) -> int | None:
    """A descriptor that holds the lock, or ``None`` where there are none.

    The lock is the record lock of POSIX: of the process alone, not of the file's openings, which forked processes would
    share and outlive it with, and it works over NFS.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(descriptor, file):
                _sign(descriptor, since)
                return descriptor
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise HeldError(_complaint(path, holder)) from None
            if error.errno in _NO_LOCKS:
                with contextlib.suppress(OSError):
                    file.unlink()
                return None
            raise
        os.close(descriptor)


def _is_still(descriptor: int, file: Path) -> bool:
    """Whether a file that was opened has its name yet: whoever held it may have removed it meanwhile."""
    ours = os.fstat(descriptor)
    try:
        there = file.lstat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _sign(descriptor: int, since: str) -> None:
    """Say in the file who holds it; a disk that is full keeps nobody from holding it."""
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


def _complaint(path: Path, holder: str) -> str:
    return f"{path} is being written by {holder}; wait until it has ended, or write to another place"
