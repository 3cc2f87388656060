"""One file over HTTP: gone on with where it was cut, tried again, checked, and never half there under its own name.

Range requests after RFC 9110, section 14. The standard library does it all.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from undiffuse.data.download.sets import Remote
from undiffuse.errors import RunError
from undiffuse.observer import Observer
from undiffuse.version import __version__

PAUSES = (1.0, 3.0, 9.0)  # seconds before each further try that follows one which brought nothing
_TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 18
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class UnreachableError(RunError):
    """A file cannot be had from any of its places, because there is no network or because it is there no more."""


class _CutError(Exception):
    """A try that failed and may do better next time."""


class _OtherContentError(Exception):
    """What came is not what was published."""


def fetch(remote: Remote, target: Path, observer: Observer) -> None:
    """Bring a file to ``target``; until it is whole and checked it is ``target`` with ``.part`` behind.

    Args:
        remote: the file and its places, which are tried in turn.
        target: where to put it.
        observer: hears of the file's name, and how many bytes of how many are there.

    Raises:
        UnreachableError: no place answers, or none has the file.
        RunError: a full disk, a transfer that is cut again and again, or other content than was published (and the
            file from no other place).
    """
    part = target.with_name(target.name + ".part")
    _check_disk_space(remote, part)
    reasons, is_other = [], False
    for url in remote.urls:
        try:
            _whole_from(url, remote, part, observer)
            part.replace(target)
            return
        except UnreachableError as error:
            reasons.append(str(error))
        except _OtherContentError as error:
            reasons.append(f"{url}: {error}")
            is_other = True
    if not is_other:
        raise UnreachableError("; ".join(reasons))
    raise RunError(
        f"{'; '.join(reasons)}; what came was deleted: run again, and if it comes again the publisher has changed the "
        "file"
    )


def check(path: Path, remote: Remote) -> str:
    """What is wrong with a file, in words; nothing if all that is known of it is right."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{size} bytes long, where {remote.size} were published"
    if remote.checksum is None:
        return ""
    kind, _, expected = remote.checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return (
        "" if digest.hexdigest() == expected else f"its {kind} is {digest.hexdigest()}, where {expected} was published"
    )


def _check_disk_space(remote: Remote, part: Path) -> None:
    there = part.stat().st_size if part.exists() else 0
    needed, free = (remote.size or 0) - there, shutil.disk_usage(part.parent).free
    if needed > free:
        raise RunError(
            f"no space for {remote.name} in {part.parent}: {needed} bytes are needed and {free} free; free some, or "
            "name another folder with --out"
        )


def _whole_from(url: str, remote: Remote, part: Path, observer: Observer) -> None:
    """The file, checked. Where what was there before, perhaps of another place, spoils it, it is fetched anew."""
    was_there = part.exists()
    try:
        _fetch_from(url, remote, part, observer)
        if problem := check(part, remote):
            raise _OtherContentError(problem)
    except _OtherContentError:
        part.unlink(missing_ok=True)
        if not was_there:
            raise
        _whole_from(url, remote, part, observer)


def _fetch_from(url: str, remote: Remote, part: Path, observer: Observer) -> None:
    """Try until the file is whole; a try that brought something is followed by another at once."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _try_once(url, remote, part, observer)
            return
        except _CutError as error:
            grown = part.exists() and part.stat().st_size > before
            failures = 0 if grown else failures + 1
            if failures > len(PAUSES):
                times = f"{failures} times in a row"
                raise UnreachableError(f"{url}: {error}, {times}{_what_is_kept(part)}") from None
            if failures:
                time.sleep(PAUSES[failures - 1])


def _what_is_kept(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f" (its first {size} bytes are kept to go on with)" if size else ""


def _try_once(url: str, remote: Remote, part: Path, observer: Observer) -> None:
    start = part.stat().st_size if part.exists() else 0
    if remote.size is not None and start > remote.size:
        part.unlink()
        start = 0
    if start and start == remote.size:
        return
    headers = {"User-Agent": f"undiffuse/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as answer:
            start = _start_of(answer, start)
            total = _total(answer, start)
            _check_size(url, remote, total)
            size = total or remote.size
            _copy(answer, part, start, remote.size, lambda done: observer.progress(done, size or done, remote.name))
            _check_complete(part, total)
    except urllib.error.HTTPError as error:
        _answer_to(error, url, part)
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror) and not start:
            raise UnreachableError(f"{url}: {_in_words(error, url)}") from None
        raise _CutError(_in_words(error, url)) from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _CutError(_in_words(error, url)) from None


def _start_of(answer: Any, requested: int) -> int:
    """Where the answer begins in the file: a server that knows no ranges sends all of it again."""
    if answer.status != 206:
        return 0
    given = str(answer.headers.get("Content-Range", ""))
    if not given.startswith(f"bytes {requested}-"):
        raise _CutError(f"asked for the bytes from {requested} on, the server sent {given or 'others'}")
    return requested


def _total(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _check_size(url: str, remote: Remote, total: int | None) -> None:
    if remote.size is not None and total is not None and total != remote.size:
        raise UnreachableError(f"{url}: offers {total} bytes, where {remote.size} were published; it is another file")


def _check_complete(part: Path, total: int | None) -> None:
    done = part.stat().st_size
    if total is not None and done < total:
        raise _CutError(f"the transfer was cut after {done} of {total} bytes")


def _copy(answer: Any, part: Path, start: int, most: int | None, on_progress: Callable[[int], object]) -> None:
    """Write an answer behind what is there; one that does not say its length might never end."""
    done = start
    try:
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                if most is not None and done > most:
                    raise _OtherContentError(f"sends more than the {most} bytes that were published")
                file.write(chunk)
                on_progress(done)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"no space left to write {part}; free some and run again: it goes on from there") from None
        raise


def _answer_to(error: urllib.error.HTTPError, url: str, part: Path) -> None:
    """What an answer other than the file means."""
    if error.code == 416:  # there is nothing behind what we have: it is whole, as its checksum will tell, or too long
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if part.exists() and total == str(part.stat().st_size):
            return
        part.unlink(missing_ok=True)
        raise _CutError("what was there did not fit the file; starting anew")
    if error.code in _RETRIED:
        raise _CutError(f"the server answered {error.code} ({error.reason})")
    raise UnreachableError(f"{url}: the server answered {error.code} ({error.reason})")


def _in_words(error: Exception, url: str) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return f"no network, or no such host as {urlsplit(url).hostname}"
    if isinstance(reason, ConnectionRefusedError):
        return f"{urlsplit(url).netloc} refuses the connection"
    if isinstance(reason, TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS:.0f} seconds"
    return f"the transfer was cut ({reason or type(reason).__name__})"
