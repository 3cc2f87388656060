"""Listing of the image files below a folder, in sorted order, and of other files. Opens no file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.ignored_items import (
    FOLDER_AGAIN,
    HIDDEN,
    UNREAD_FOLDER,
    UNREAD_IMAGE,
    IgnoredItems,
    kind_of,
)
from undiffuse.data.sources.layout.within import sources_within
from undiffuse.data.storage.string_array import StringArray, sorted_rows
from undiffuse.errors import UsageError

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "jp2", "bmp", "dib", "gif", "webp", "avif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga"),
    )
)


class Names(NamedTuple):
    """Names relative to a folder or archive, with slashes: images, in sorted order, and other files.

    ``left_out`` counts what is neither.
    """

    images: StringArray
    others: StringArray
    left_out: IgnoredItems


def list_names(root: Path) -> Names:
    """List all files below ``root``; those with an image extension are images. Hidden files are left out.

    Links to folders are followed, each real folder once, so that a cycle of links terminates.

    Raises:
        UsageError: if ``root`` is not a readable folder or contains no image.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: {'a file' if root.is_file() else 'no such folder'}; expected a folder of images")
    found = Names(StringArray(), StringArray(), IgnoredItems())
    visited = {os.path.realpath(root)}
    pending = [""]  # stack of folders, each with its slash
    while pending:
        here = pending.pop()
        folders = _take_files(root, here, found)
        new = [name for name in sorted(folders) if _is_new(root / here / name, visited)]
        for name in sorted(set(folders) - set(new)):
            found.left_out.add(FOLDER_AGAIN, f"{here}{name}")
        pending.extend(f"{here}{name}/" for name in reversed(new))
    check_has_images(found, root, "folder", "" if found.images else sources_within(root))
    return found._replace(images=found.images.select(sorted_rows(found.images)))


def _take_files(root: Path, here: str, found: Names) -> list[str]:
    """Add the files of one folder to ``found`` and return its sub-folders."""
    folders = []
    try:
        with os.scandir(root / here) as entries:
            for entry in entries:  # one at a time: a folder may hold millions
                if not is_shown(entry.name):
                    found.left_out.add(HIDDEN, here + entry.name)
                elif _is_folder(entry):
                    folders.append(entry.name)
                else:
                    (found.images if is_image_file(entry.name) else found.others).append(here + entry.name)
    except OSError as error:
        where = readable(str(error.filename or root / here))
        raise UsageError(f"{where}: the folder cannot be read ({error.strerror})") from None
    return folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a cyclic link
        return False


def check_has_images(names: Names, location: Path, noun: str, advice: str = "") -> None:
    """Raise ``UsageError`` if there are no images; the message lists the other files, and ``advice`` if given."""
    if names.images:
        return
    names.left_out.add_others(names.others)
    parts = [text for warned in (True, False) if (text := names.left_out.text(warned, advice=not advice))]
    expected = f"expected {', '.join(sorted(EXTENSIONS))}"
    raise UsageError(
        f"{readable(str(location))}: no images in this {noun} ({'; '.join(parts) or 'no files'}); {advice or expected}"
    )


def is_image_file(name: str) -> bool:
    """Whether a file name has an image extension."""
    stem, dot, ending = name.rpartition(".")
    ending = ending.lower()
    return bool(stem) and (f"{dot}{ending}" in EXTENSIONS or (ending in heic.ENDINGS and heic.is_installed()))


def is_shown(name: str) -> bool:
    """Whether a file or folder is neither hidden nor metadata that macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _is_new(folder: Path, visited: set[str]) -> bool:
    real = os.path.realpath(folder)
    new = real not in visited
    visited.add(real)
    return new


def add_unused(left_out: IgnoredItems, folder: Path, used: Iterable[Path]) -> None:
    """Record the entries of a folder that are neither files that are read nor folders with such files."""
    known = {name for path in used for name in (path, path.parent)}
    for path in sorted(folder.iterdir()):
        if path in known:
            continue
        if path.name.startswith("."):
            left_out.add(HIDDEN, path.name)
        elif path.is_dir():
            left_out.add(UNREAD_FOLDER, path.name)
        else:
            left_out.add(UNREAD_IMAGE if is_image_file(path.name) else kind_of(path.name), path.name)
