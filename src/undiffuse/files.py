"""Writing files so that nothing half-written ever stands under a final name. Any room may import this module."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undiffuse.errors import RunError, UndiffuseError, UsageError


def _umask() -> int:
    os.umask(current := os.umask(0o022))
    return current


_UMASK = _umask()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write a file or fill a folder at; synced and renamed when the block ends.

    Raises:
        RunError: the disk is full or fails.
        UsageError: the folder may not be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            _put_in_place(temporary, path)
            _sync_entry(path.parent)
    finally:
        _remove(temporary)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing at ``path`` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"no space left to write {path}; free some and resume: nothing half-written was kept"
            ) from None
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise UsageError(f"cannot write {path}: {error.strerror}; name another folder with --out") from None
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UsageError(
                f"cannot write {path}: a file stands where a folder is needed; name another --out"
            ) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON in one piece."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _errno_of(error: Exception) -> int | None:
    """The operating system's number; safetensors gives it in words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)|code: (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1] or found[2]) if found else None


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename; a folder that stands there is moved aside first, for a rename replaces no full folder."""
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    for entry in sorted(path.iterdir()) if path.is_dir() else [path]:
        if entry.is_file():
            entry.chmod(0o666 & ~_UMASK)  # safetensors makes files that nobody else may read
            with entry.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
