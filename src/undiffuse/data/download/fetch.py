"""Download of one file over HTTP: resumed, retried, verified, and never incomplete under its final name.

Range requests after RFC 9110, section 14. Uses only the standard library.
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

PAUSES = (1.0, 3.0, 9.0)  # seconds before each retry after an attempt that received nothing
_TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 18
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class UnreachableError(RunError):
    """None of a file's URLs is available: no network, or the file was removed."""


class _CutError(Exception):
    """A failed attempt that may be retried."""


class _OtherContentError(Exception):
    """The received content is not the published content."""


def fetch(remote: Remote, target: Path, observer: Observer) -> None:
    """Download a file to ``target``; until it is complete and verified, it has the suffix ``.part``.

    Args:
        remote: the file and its URLs, which are tried in order.
        target: path of the downloaded file.
        observer: receives the file's name, the bytes received and the total.

    Raises:
        UnreachableError: no URL responds, or none has the file.
        RunError: the disk is full, the transfer failed repeatedly, or no URL has the published content.
    """
    part = target.with_name(target.name + ".part")
    _check_disk_space(remote, part)
    reasons, is_other = [], False
    for url in remote.urls:
        try:
            _fetch_verified(url, remote, part, observer)
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
        f"{'; '.join(reasons)}; the download was deleted: run again, and if the error repeats the publisher has "
        "changed the file"
    )


def check(path: Path, remote: Remote) -> str:
    """Describe what is wrong with a file; empty if its size and checksum match, as far as they are known."""
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
    received = part.stat().st_size if part.exists() else 0
    needed, free = (remote.size or 0) - received, shutil.disk_usage(part.parent).free
    if needed > free:
        raise RunError(
            f"no space for {remote.name} in {part.parent}: {needed} bytes are needed and {free} free; free some, or "
            "name another folder with --out"
        )


def _fetch_verified(url: str, remote: Remote, part: Path, observer: Observer) -> None:
    """Fetch and verify the file. If a resumed download is wrong, it is fetched again from the start."""
    is_resumed = part.exists()
    try:
        _fetch_from(url, remote, part, observer)
        if problem := check(part, remote):
            raise _OtherContentError(problem)
    except _OtherContentError:
        part.unlink(missing_ok=True)
        if not is_resumed:
            raise
        _fetch_verified(url, remote, part, observer)


def _fetch_from(url: str, remote: Remote, part: Path, observer: Observer) -> None:
    """Retry until the file is complete; an attempt that received data is retried without a pause."""
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
                raise UnreachableError(f"{url}: {error}, {times}{_resume_note(part)}") from None
            if failures:
                time.sleep(PAUSES[failures - 1])


def _resume_note(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f" (its first {size} bytes are kept; run again to resume)" if size else ""


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
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:
            start = _start_of(response, start)
            total = _total(response, start)
            _check_size(url, remote, total)
            size = total or remote.size
            _copy(response, part, start, remote.size, lambda done: observer.progress(done, size or done, remote.name))
            _check_complete(part, total)
    except urllib.error.HTTPError as error:
        _handle_status(error, url, part)
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror) and not start:
            raise UnreachableError(f"{url}: {_reason(error, url)}") from None
        raise _CutError(_reason(error, url)) from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _CutError(_reason(error, url)) from None


def _start_of(response: Any, requested: int) -> int:
    """Offset of the response in the file: a server without range support sends the whole file."""
    if response.status != 206:
        return 0
    given = str(response.headers.get("Content-Range", ""))
    if not given.startswith(f"bytes {requested}-"):
        raise _CutError(f"requested the bytes from {requested} on, the server sent {given or 'another range'}")
    return requested


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _check_size(url: str, remote: Remote, total: int | None) -> None:
    if remote.size is not None and total is not None and total != remote.size:
        raise UnreachableError(f"{url}: offers {total} bytes, where {remote.size} were published; it is another file")


def _check_complete(part: Path, total: int | None) -> None:
    done = part.stat().st_size
    if total is not None and done < total:
        raise _CutError(f"the transfer was cut after {done} of {total} bytes")


def _copy(response: Any, part: Path, start: int, limit: int | None, on_progress: Callable[[int], object]) -> None:
    """Append a response to the file, up to ``limit`` bytes, since it may have no stated length."""
    done = start
    try:
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if limit is not None and done > limit:
                    raise _OtherContentError(f"sends more than the {limit} bytes that were published")
                file.write(chunk)
                on_progress(done)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"no space left to write {part}; free some and run again to resume") from None
        raise


def _handle_status(error: urllib.error.HTTPError, url: str, part: Path) -> None:
    """Handle an HTTP error status."""
    if error.code == 416:  # range not satisfiable: the file is already complete (verified later) or too long
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if part.exists() and total == str(part.stat().st_size):
            return
        part.unlink(missing_ok=True)
        raise _CutError("the partial download did not match the file; restarting")
    if error.code in _RETRIED:
        raise _CutError(f"the server answered {error.code} ({error.reason})")
    raise UnreachableError(f"{url}: the server answered {error.code} ({error.reason})")


def _reason(error: Exception, url: str) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return f"no network, or no such host as {urlsplit(url).hostname}"
    if isinstance(reason, ConnectionRefusedError):
        return f"{urlsplit(url).netloc} refuses the connection"
    if isinstance(reason, TimeoutError):
        return f"no response within {_TIMEOUT_SECONDS:.0f} seconds"
    return f"the transfer was cut ({reason or type(reason).__name__})"
