"""Writing files so that nothing half-written ever stands under a final name. Any room may import this module."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undiffuse.errors import RunError, UndiffuseError, UsageError
from undiffuse.leftovers import backup_path, is_temporary, remove, temporary_next_to

#: How the name of a lock ends, see ``claims``.
LOCK_ENDING = ".lock"

_log = logging.getLogger("undiffuse")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name next to ``path`` to write a file or fill a folder at; synced and renamed when the block ends.

    A link to a file gives way to the new file, and what it leads to is left alone: a folder that came from elsewhere
    may hold links to anywhere. A link to a folder is followed.

    Raises:
        RunError: the disk is full or fails.
        UsageError: the folder may not be written to.
    """
    requested, path = path, resolve_target(path)
    temporary = temporary_next_to(path)
    try:
        with translate_os_errors(requested):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _finalize(temporary, path)
    finally:
        remove(temporary)


def finalize_folder(folder: Path, path: Path) -> None:
    """Sync and rename a folder that is filled to ``path``, as ``replacing`` does, but from its own name.

    Until then it has no temporary's name, under which a later command would take it for a dead one's and remove it.

    Raises:
        RunError: the disk is full or fails.
        UsageError: the place may not be written to.
    """
    with translate_os_errors(path):
        _finalize(folder, resolve_target(path))


def resolve_target(path: Path) -> Path:
    """Where ``path`` is written: with links followed on the way there and to a folder, but not to a file."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing at ``path`` into one line that says what to do."""
    try:
        yield
    except UndiffuseError:
        raise
    except Exception as error:
        raise _explanation(error, path) or error from None


def _explanation(error: Exception, path: Path) -> UndiffuseError | None:
    code = _errno_of(error)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"no space left to write {path}; free some and go on: nothing half-written was kept")
    if code == errno.EIO:
        return RunError(f"the disk failed while writing {path}; look after it, then go on")
    if code not in _ERRORS or (code == errno.ENOENT and not _is_next_to(error, path)):
        return None
    return UsageError(f"cannot write {path}: {_ERRORS[code]}; name another place")


_ERRORS = {
    errno.ENOENT: "no file can be made there",
    errno.EACCES: "writing is not allowed there",
    errno.EPERM: "writing is not allowed there",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link stands where a file of ours is needed",
}


def _is_next_to(error: Exception, path: Path) -> bool:
    """Whether what was missing is where ``path`` is written, and not something that was read on the way."""
    name, folder = getattr(error, "filename", None), path.resolve().parent
    if not isinstance(name, str | os.PathLike):
        return False
    missing = Path(name).absolute()
    return folder in (missing, missing.parent) or missing in folder.parents


def _errno_of(error: Exception) -> int | None:
    """The operating system's number of an error; safetensors gives it in words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def check_writable(path: Path) -> None:
    """Refuse before any work is done what could not be written in the end; makes nothing.

    Raises:
        UsageError: ``path``, or the nearest folder above it that exists, may not be written to.
    """
    with translate_os_errors(path):
        place = path.absolute()
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir() and place != path.absolute():
            raise NotADirectoryError(errno.ENOTDIR, place)
        folder = place if place.is_dir() else place.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, folder)


def check_output_folder(out: Path) -> None:
    """Refuse a file in a folder's place, and a place that may not be written to.

    Raises:
        UsageError: says which.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    check_writable(out)


def check_overwrite(out: Path, noun: str, marker: str, *, overwrite: bool) -> None:
    """Refuse results of the same kind that may not go, see ``check_replaceable_folder``."""
    if (out / marker).is_file() and not overwrite:
        raise UsageError(f"--out {out} holds {noun} already; name another folder or add --overwrite")


def check_replaceable_folder(out: Path, noun: str, marker: str, own: re.Pattern[str], *, overwrite: bool) -> None:
    """Refuse before any work a folder whose replacement would lose anything but earlier results of the same kind.

    Args:
        out: where a folder of results is to be put by ``replacing``.
        noun: what the results are, in the plural or with its article.
        marker: the file that each such folder has.
        own: the names of all files that it may have.
        overwrite: whether earlier results may go.
    Raises:
        UsageError: ``out`` is a file, or holds something else, more, or results that may not go.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    held = sorted(path for path in out.iterdir() if not is_temporary_or_lock(path)) if out.is_dir() else []
    others = [path.name for path in held if path.is_dir() or not own.fullmatch(path.name)]
    named = f" ({', '.join(others[:3])}{', ...' if others[3:] else ''})" if others else ""
    if held and not (out / marker).is_file():
        raise UsageError(f"--out {out} holds something other than {noun}{named}; name another folder")
    check_overwrite(out, noun, marker, overwrite=overwrite)
    if others:
        raise UsageError(
            f"--out {out} holds more than {noun}{named}, which would be deleted; move it away or name another folder"
        )
    check_writable(out)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what writers have there for a while: locks and temporaries."""
    return all(is_temporary_or_lock(path) for path in folder.iterdir())


def is_temporary_or_lock(path: Path) -> bool:
    """Whether a name is that of a lock or a temporary."""
    return is_temporary(path) or (path.name.startswith(".") and path.name.endswith(LOCK_ENDING))


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON in one piece."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Readable JSON, as all files here have it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _finalize(filled: Path, path: Path) -> None:
    _sync(filled)
    _rename_into_place(filled, path)
    _sync_entry(path.parent)


def _rename_into_place(temporary: Path, path: Path) -> None:
    """Rename; a full folder that stands there is moved aside first, for a rename replaces an empty one only."""
    if path.is_symlink():
        _log.warning("note: %s was a link to %s; it is a file of its own now", path, path.readlink())
    if temporary.is_dir() and path.is_dir() and path.samefile(Path.cwd()):
        _move_entries(temporary, path)
        return
    try:
        temporary.replace(path)
    except OSError:
        if not (temporary.is_dir() and path.is_dir()):
            raise
        _exchange(temporary, path)


def _exchange(temporary: Path, path: Path) -> None:
    before = backup_path(temporary_next_to(path))
    path.replace(before)
    try:
        temporary.replace(path)
    except OSError:
        before.replace(path)
        raise
    remove(before)


def _move_entries(temporary: Path, folder: Path) -> None:
    """Fill the folder that the user stands in: a shell would be left in a removed one if it were replaced."""
    for entry in folder.iterdir():
        remove(entry)
    for entry in sorted(temporary.iterdir()):
        entry.replace(folder / entry.name)
    temporary.rmdir()


def _sync(path: Path) -> None:
    for entry in sorted(path.iterdir()) if path.is_dir() else [path]:
        if entry.is_file():
            entry.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read
            with entry.open("rb+") as file:
                os.fsync(file.fileno())
    if path.is_dir():
        _sync_entry(path)


def _sync_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    os.umask(current := os.umask(0o022))
    return current
