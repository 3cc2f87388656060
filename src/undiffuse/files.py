"""Atomic file writes: a final name never refers to a partial file. Any package may import this module."""

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

#: Suffix of lock files, see ``locking``.
LOCK_ENDING = ".lock"

_log = logging.getLogger("undiffuse")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` to write a file or folder to; sync it and rename it to ``path`` at exit.

    A symbolic link to a file is replaced by the new file and its target is not touched: a folder from elsewhere may
    contain links to anywhere. A link to a folder is followed.

    Raises:
        RunError: the disk is full or fails.
        UsageError: the folder is not writable.
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
    """Sync a complete folder and rename it to ``path``, like ``replacing`` but from a name of the caller's choice.

    Such a folder has no temporary name, so a later command does not remove it as a leftover of a dead process.

    Raises:
        RunError: the disk is full or fails.
        UsageError: the path is not writable.
    """
    with translate_os_errors(path):
        _finalize(folder, resolve_target(path))


def resolve_target(path: Path) -> Path:
    """The path to write to: resolves links in the parents and links to folders, but not a link to a file."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Convert operating system errors on writing ``path`` into errors whose message states what to do."""
    try:
        yield
    except UndiffuseError:
        raise
    except Exception as error:
        raise _translate(error, path) or error from None


def _translate(error: Exception, path: Path) -> UndiffuseError | None:
    code = _errno_of(error)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"no space left to write {path}; free some space and resume: no partial file was kept")
    if code == errno.EIO:
        return RunError(f"the disk failed while writing {path}; check the disk, then resume")
    if code not in _ERRORS or (code == errno.ENOENT and not _is_next_to(error, path)):
        return None
    return UsageError(f"cannot write {path}: {_ERRORS[code]}; choose another path")


_ERRORS = {
    errno.ENOENT: "no file can be created there",
    errno.EACCES: "writing is not allowed there",
    errno.EPERM: "writing is not allowed there",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "a file is where a folder is needed",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a symbolic link is where a file is needed",
}


def _is_next_to(error: Exception, path: Path) -> bool:
    """Whether the missing file belongs to the destination ``path``, not to something that was read meanwhile."""
    name, folder = getattr(error, "filename", None), path.resolve().parent
    if not isinstance(name, str | os.PathLike):
        return False
    missing = Path(name).absolute()
    return folder in (missing, missing.parent) or missing in folder.parents


def _errno_of(error: Exception) -> int | None:
    """The ``errno`` of an error; safetensors reports it only in the message text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def check_writable(path: Path) -> None:
    """Check, before any work, that ``path`` can be written; creates nothing.

    Raises:
        UsageError: ``path``, or its nearest existing parent folder, is not writable.
    """
    with translate_os_errors(path):
        existing = path.absolute()
        while not os.path.lexists(existing):
            existing = existing.parent
        if not existing.is_dir() and existing != path.absolute():
            raise NotADirectoryError(errno.ENOTDIR, existing)
        folder = existing if existing.is_dir() else existing.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, folder)


def check_output_folder(out: Path) -> None:
    """Check that ``out`` can be an output folder.

    Raises:
        UsageError: it is a file, or is not writable.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    check_writable(out)


def check_overwrite(out: Path, noun: str, marker: str, *, overwrite: bool) -> None:
    """Raise UsageError if ``out`` holds results of the same kind and ``overwrite`` is not set."""
    if (out / marker).is_file() and not overwrite:
        raise UsageError(f"--out {out} holds {noun} already; name another folder or add --overwrite")


def check_replaceable_folder(out: Path, noun: str, marker: str, allowed: re.Pattern[str], *, overwrite: bool) -> None:
    """Check, before any work, that replacing a folder would delete only earlier results of the same kind.

    Args:
        out: the folder that ``replacing`` will replace.
        noun: the kind of results, in the plural or with its article.
        marker: the file that each such folder has.
        allowed: matches the names of all files that such a folder may have, and ``NAME/`` and ``NAME/FILE`` if it may
            have a folder.
        overwrite: whether earlier results may be replaced.
    Raises:
        UsageError: ``out`` is a file, or holds other files, or results that may not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    entries = sorted(path for path in out.iterdir() if not is_temporary_or_lock(path)) if out.is_dir() else []
    foreign = [name for path in entries for name in _names_in(path, allowed) if not allowed.fullmatch(name)]
    listed = (
        f" ({', '.join(name.rstrip('/') for name in foreign[:3])}{', ...' if foreign[3:] else ''})" if foreign else ""
    )
    if entries and not (out / marker).is_file():
        raise UsageError(f"--out {out} holds something other than {noun}{listed}; name another folder")
    check_overwrite(out, noun, marker, overwrite=overwrite)
    if foreign:
        raise UsageError(
            f"--out {out} holds more than {noun}{listed}, which would be deleted; move it away or name another folder"
        )
    check_writable(out)


def _names_in(path: Path, allowed: re.Pattern[str]) -> list[str]:
    """The names that are matched for an entry; of an allowed folder, those of its entries."""
    if not path.is_dir():
        return [path.name]
    if not allowed.fullmatch(f"{path.name}/"):
        return [f"{path.name}/"]
    return [f"{path.name}/{inner.name}{'/' if inner.is_dir() else ''}" for inner in sorted(path.iterdir())]


def is_empty(folder: Path) -> bool:
    """Whether a folder is empty except for lock files and temporary files."""
    return all(is_temporary_or_lock(path) for path in folder.iterdir())


def is_temporary_or_lock(path: Path) -> bool:
    """Whether a path is a lock file or a temporary file, by its name."""
    return is_temporary(path) or (path.name.startswith(".") and path.name.endswith(LOCK_ENDING))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON, the format of all JSON files of this package."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _finalize(temporary: Path, path: Path) -> None:
    _sync(temporary)
    _rename_into_place(temporary, path)
    _sync_entry(path.parent)


def _rename_into_place(temporary: Path, path: Path) -> None:
    """Rename; an existing folder is moved aside first, because a rename can replace only an empty one."""
    if path.is_symlink():
        _log.warning("note: %s was a link to %s; it is a regular file now", path, path.readlink())
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
    """Replace the entries of the current directory: replacing it would leave the user's shell in a deleted one."""
    for entry in folder.iterdir():
        remove(entry)
    for entry in sorted(temporary.iterdir()):
        entry.replace(folder / entry.name)
    temporary.rmdir()


def _sync(path: Path) -> None:
    for entry in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if entry.is_file():
            entry.chmod(0o666 & ~_umask())  # safetensors creates files that only their owner can read
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
