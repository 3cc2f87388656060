"""The picture files below a folder, and the classes that its sub-folders make. Opens no picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


class Listing(NamedTuple):
    """Paths relative to the folder in sorted order, and how many other files there are."""

    pictures: list[PurePosixPath]
    num_others: int


def list_pictures(root: Path) -> Listing:
    """All files below ``root`` with a picture's extension; hidden files and folders are passed over.

    Links to folders are followed, each real folder once, so that a loop of links ends.

    Raises:
        UsageError: no such folder, not a folder, unreadable, or no picture in it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: {'a file' if root.is_file() else 'no such folder'}; expected a folder of pictures")
    pictures: list[PurePosixPath] = []
    num_others = 0
    seen = {root.resolve()}
    for place, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        here = Path(place)
        folders[:] = sorted(name for name in folders if _is_shown(name) and _is_new(here / name, seen))
        for name in filter(_is_shown, files):
            if Path(name).suffix.lower() in EXTENSIONS:
                pictures.append(PurePosixPath((here / name).relative_to(root).as_posix()))
            else:
                num_others += 1
    if not pictures:
        found = f"{num_others} other files" if num_others else "no files"
        raise UsageError(f"{root}: no pictures in this folder ({found}); expected {', '.join(sorted(EXTENSIONS))}")
    return Listing(sorted(pictures, key=str), num_others)


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: the folder cannot be read ({error.strerror})")


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_new(folder: Path, seen: set[Path]) -> bool:
    real = folder.resolve()
    new = real not in seen
    seen.add(real)
    return new


def class_of_each(pictures: Sequence[PurePosixPath], labels: str, root: Path) -> tuple[list[int] | None, list[str]]:
    """(class index of each picture, class names), or (``None``, []) where there are no classes.

    Sub-folders are counted below the deepest folder that holds all the pictures, so that an archive unpacked with one
    folder around everything reads the same.

    Args:
        labels: ``auto``, ``folders`` or ``none``, see ``FolderConfig``.

    Raises:
        UsageError: ``folders`` where a picture lies in no sub-folder.
    """
    if labels == "none":
        return None, []
    depth = _common_depth(pictures)
    if labels == "folders" and any(len(picture.parts) == depth + 1 for picture in pictures):
        depth = max(depth - 1, 0)  # one class only: its folder is the one that all have in common
    inner = [picture.parts[depth:] for picture in pictures]
    if labels == "auto" and any(len(parts) != 2 for parts in inner):
        return None, []
    loose = next((picture for picture, parts in zip(pictures, inner, strict=True) if len(parts) < 2), None)
    if loose is not None:
        raise UsageError(f"{root}: labels=folders, but {loose} lies in no sub-folder; move it or take labels=none")
    names = sorted({parts[0] for parts in inner})
    number = {name: index for index, name in enumerate(names)}
    return [number[parts[0]] for parts in inner], names


def _common_depth(pictures: Sequence[PurePosixPath]) -> int:
    """How many folders all the pictures have in common, counted from the root."""
    first, *others = {picture.parent.parts for picture in pictures}
    depth = len(first)
    for parts in others:
        depth = min(depth, len(parts))
        while first[:depth] != parts[:depth]:
            depth -= 1
    return depth
