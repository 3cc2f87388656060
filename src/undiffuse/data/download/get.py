"""Download of a public data set: existing files are verified, missing ones fetched, archives unpacked if needed."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from undiffuse.data.download.fetch import UnreachableError, check, fetch
from undiffuse.data.download.sets import PublicSet, Remote
from undiffuse.errors import RunError, UsageError
from undiffuse.files import replacing, translate_os_errors
from undiffuse.locking import locks
from undiffuse.observer import SILENT, Observer

_CHUNK = 1 << 20


@dataclass(frozen=True)
class DownloadResult:
    """Result of a download.

    Args:
        data: value for ``--data``.
        fetched: names of the files fetched by this call.
        missing: files that must be downloaded manually, or that are unreachable.
        reason: why they are unreachable; empty if they must be downloaded manually.
    """

    data: str
    fetched: tuple[str, ...] = ()
    missing: tuple[Remote, ...] = ()
    reason: str = ""


@locks("folder")
def get(public: PublicSet, folder: Path, observer: Observer = SILENT) -> DownloadResult:
    """Download all files of a set to ``folder`` and verify their known sizes and checksums.

    Raises:
        UsageError: an existing file does not match, or the folder is not writable.
        RunError: the disk is full, or a downloaded file does not have the published content.
    """
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    fetched, missing, reason = [], [], ""
    for remote in public.files:
        if _is_unpacked(remote, folder):
            continue
        target = folder / remote.name
        if target.exists():
            _check_existing(target, remote)
        elif reason or not remote.urls:  # after one failure the other files are not tried
            missing.append(remote)
            continue
        else:
            try:
                with translate_os_errors(target):
                    fetch(remote, target, observer)
            except UnreachableError as error:
                reason = str(error)
                missing.append(remote)
                continue
            fetched.append(remote.name)
        for member, name in remote.unpack:
            _unpack(target, member, folder / name)
    return DownloadResult(str(folder / public.data), tuple(fetched), tuple(missing), reason)


def _is_unpacked(remote: Remote, folder: Path) -> bool:
    return bool(remote.unpack) and all((folder / name).is_file() for _, name in remote.unpack)


def _check_existing(target: Path, remote: Remote) -> None:
    if not target.is_file():
        raise UsageError(f"{target}: not a regular file; move it away, or name another folder with --out")
    problem = check(target, remote)
    if problem:
        raise UsageError(f"{target}: {problem}: damaged or of another version; move it away and run again")


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Extract one member to ``target``; paths in the archive are never used."""
    if target.is_file():
        return
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            free = shutil.disk_usage(archive.parent).free
            if info.file_size > free:
                raise RunError(f"no space to unpack {target}: {info.file_size} bytes are needed and {free} free")
            with replacing(target) as temporary, opened.open(info) as source, temporary.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
    except KeyError:
        raise RunError(f"{archive}: has no {member}; the publisher has changed it: unpack it by hand") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RunError(f"{archive}: damaged ({error}); delete it and run again") from None
