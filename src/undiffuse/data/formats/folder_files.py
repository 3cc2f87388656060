"""The picture files below a folder, in sorted order, and what else lies there. Opens no file."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from undiffuse.data.texts import Texts, sorted_rows
from undiffuse.errors import UsageError

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "jp2", "bmp", "dib", "gif", "webp", "avif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga"),
    )
)


class Names(NamedTuple):
    """Names relative to a folder or archive, with slashes: of pictures, in sorted order, and of other files.

    ``num_more`` files are neither, and have no name here.
    """

    pictures: Texts
    others: Texts
    num_more: int = 0

    @property
    def num_others(self) -> int:
        """How many files are no pictures."""
        return len(self.others) + self.num_more


class Listing(NamedTuple):
    """Paths relative to the folder in sorted order, and how many other files there are."""

    pictures: list[PurePosixPath]
    num_others: int


def list_pictures(root: Path) -> Listing:
    """``list_names`` as paths, for those who read few of them."""
    names = list_names(root)
    return Listing(list(map(PurePosixPath, names.pictures)), names.num_others)


def list_names(root: Path) -> Names:
    """All files below ``root``; those with a picture's extension are pictures. Hidden ones are passed over.

    Links to folders are followed, each real folder once, so that a loop of links ends.

    Raises:
        UsageError: no such folder, not a folder, unreadable, or no picture in it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: {'a file' if root.is_file() else 'no such folder'}; expected a folder of pictures")
    found = Names(Texts(), Texts())
    seen = {os.path.realpath(root)}
    waiting = [""]  # folders, each with its slash; the next one last
    while waiting:
        here = waiting.pop()
        folders = _take_files(root, here, found)
        new = [name for name in sorted(folders) if _is_new(root / here / name, seen)]
        waiting.extend(f"{here}{name}/" for name in reversed(new))
    refuse_without_pictures(found, root, "folder")
    return found._replace(pictures=found.pictures.select(sorted_rows(found.pictures)))


def _take_files(root: Path, here: str, found: Names) -> list[str]:
    """Put the files of one folder among those found; its sub-folders are returned."""
    folders = []
    try:
        with os.scandir(root / here) as entries:
            for entry in entries:  # one at a time: a folder may hold millions
                if not is_shown(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    (found.pictures if is_picture(entry.name) else found.others).append(here + entry.name)
    except OSError as error:
        raise UsageError(f"{error.filename or root / here}: the folder cannot be read ({error.strerror})") from None
    return folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles
        return False


def refuse_without_pictures(names: Names, location: Path, noun: str) -> None:
    """Raise where there is no picture among the names."""
    if not names.pictures:
        found = f"{names.num_others} other files" if names.num_others else "no files"
        raise UsageError(f"{location}: no pictures in this {noun} ({found}); expected {', '.join(sorted(EXTENSIONS))}")


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    stem, dot, ending = name.rpartition(".")
    return bool(stem) and f"{dot}{ending.lower()}" in EXTENSIONS


def is_shown(name: str) -> bool:
    """Whether a file or folder is neither hidden nor what macOS puts into archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _is_new(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    new = real not in seen
    seen.add(real)
    return new
