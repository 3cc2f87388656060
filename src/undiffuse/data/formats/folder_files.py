"""The picture files below a folder, in sorted order, and what else lies there. Opens no file."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from undiffuse.errors import UsageError

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "jp2", "bmp", "dib", "gif", "webp", "avif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga"),
    )
)


class Names(NamedTuple):
    """Names relative to a folder or archive, with slashes: of pictures, in sorted order, and of other files."""

    pictures: list[str]
    others: list[str]


class Listing(NamedTuple):
    """Paths relative to the folder in sorted order, and how many other files there are."""

    pictures: list[PurePosixPath]
    num_others: int


def list_pictures(root: Path) -> Listing:
    """``list_names`` as paths, for those who read few of them."""
    names = list_names(root)
    return Listing([PurePosixPath(name) for name in names.pictures], len(names.others))


def list_names(root: Path) -> Names:
    """All files below ``root``; those with a picture's extension are pictures. Hidden ones are passed over.

    Links to folders are followed, each real folder once, so that a loop of links ends.

    Raises:
        UsageError: no such folder, not a folder, unreadable, or no picture in it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: {'a file' if root.is_file() else 'no such folder'}; expected a folder of pictures")
    found = Names([], [])
    seen = {root.resolve()}
    for place, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        here = Path(place)
        folders[:] = sorted(name for name in folders if is_shown(name) and _is_new(here / name, seen))
        below = here.relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in filter(is_shown, files):
            (found.pictures if is_picture(name) else found.others).append(prefix + name)
    refuse_without_pictures(found, root, "folder")
    found.pictures.sort()
    return found


def refuse_without_pictures(names: Names, location: Path, noun: str) -> None:
    """Raise where there is no picture among the names."""
    if not names.pictures:
        found = f"{len(names.others)} other files" if names.others else "no files"
        raise UsageError(f"{location}: no pictures in this {noun} ({found}); expected {', '.join(sorted(EXTENSIONS))}")


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    stem, dot, ending = name.rpartition(".")
    return bool(stem) and f"{dot}{ending.lower()}" in EXTENSIONS


def is_shown(name: str) -> bool:
    """Whether a file or folder is neither hidden nor what macOS puts into archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: the folder cannot be read ({error.strerror})")


def _is_new(folder: Path, seen: set[Path]) -> bool:
    real = folder.resolve()
    new = real not in seen
    seen.add(real)
    return new
