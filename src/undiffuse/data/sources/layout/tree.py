"""Uniform access to images and annotation lists in a folder, zip or tar archive, for readers of known layouts.

A reader of a published data set lists the names, reads the lists that it knows, and selects images, whether the data
set is unpacked or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.tar_index import MemoryAt, RandomAccessFile, read_members
from undiffuse.data.readers.text import composed, readable
from undiffuse.data.sources.folder import FolderFiles, FolderSidecars
from undiffuse.data.sources.layout.folder_files import Names, is_image_file, is_shown, list_names
from undiffuse.data.sources.layout.ignored_items import HIDDEN, LINK, REPEATED, IgnoredItems
from undiffuse.data.sources.layout.tar_files import looks_like_tar
from undiffuse.data.sources.layout.zip_files import looks_like_zip
from undiffuse.data.sources.tar import TarFiles
from undiffuse.data.sources.zip import ZipIndex, ZipSidecars, zip_files
from undiffuse.data.storage import encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray, sorted_rows
from undiffuse.errors import UsageError


class Tree(Protocol):
    """Files below a folder or in an archive, by names with slashes."""

    location: Path
    names: Names

    def title_of(self, name: str) -> str:
        """Name of a file in messages."""

    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        """Read the content of a file of at most ``max_bytes`` bytes."""

    def files(self, kept: Sequence[str]) -> EncodedFiles:
        """Create the ``EncodedFiles`` of these images, in this order."""


def open_tree(location: Path, skips: Skips, what: str) -> Tree:
    """List the files of a folder, a zip or a tar archive (gzipped or not).

    Args:
        location: the folder or archive.
        skips: receives the errors of members that cannot be read.
        what: description of the expected data, for messages.

    Raises:
        UsageError: if the location does not exist, or is a file of another kind.
    """
    if location.is_dir():
        return _FolderTree(location)
    if not location.exists():
        raise UsageError(f"{location}: no such file or folder; expected {what}")
    if looks_like_zip(location):
        return _ZipTree(FileAt(location), skips)
    if looks_like_tar(location):
        return _TarTree(open_tar(location))
    raise UsageError(f"{location}: neither a folder nor a zip or tar archive; expected {what}")


class _FolderTree(FolderSidecars):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names = list_names(root)

    def files(self, kept: Sequence[str]) -> EncodedFiles:
        return FolderFiles(self.location, StringArray(kept))


class _ZipTree(ZipSidecars):
    def __init__(self, file: FileAt, skips: Skips) -> None:
        index = ZipIndex(file, skips)
        super().__init__(file, index.others)
        self.names, self._images = index.names, index.images

    def files(self, kept: Sequence[str]) -> EncodedFiles:
        row_of = {name: row for row, name in enumerate(self.names.images)}
        rows = np.array([row_of[name] for name in kept], dtype=np.int64)
        return zip_files(self._file, self._images, rows)


class _TarTree:
    def __init__(self, archive: RandomAccessFile) -> None:
        self.location, self._archive, self.names = (
            archive.path,
            archive,
            Names(StringArray(), StringArray(), IgnoredItems()),
        )
        self._location_of: dict[str, tuple[int, int]] = {}
        for member in read_members(archive):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if not member.is_plain:
                self.names.left_out.add(LINK, member.name)
            elif ".." in parts or not all(map(is_shown, parts)):
                self.names.left_out.add(HIDDEN, member.name)
            elif parts:
                name = "/".join(parts)
                if name in self._location_of:
                    self.names.left_out.add(REPEATED, name)
                else:
                    (self.names.images if is_image_file(name) else self.names.others).append(name)
                self._location_of[name] = (member.offset, member.size)
        self.names = self.names._replace(images=self.names.images.select(sorted_rows(self.names.images)))

    def title_of(self, name: str) -> str:
        return readable(f"{self.location}!{name}")

    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        offset, size = self._location_of[name]
        if size > max_bytes:
            raise UsageError(f"{self.title_of(name)}: {size} bytes exceed the limit of {max_bytes} for this file")
        return self._archive.read(offset, size)

    def files(self, kept: Sequence[str]) -> EncodedFiles:
        table = np.array([(0, *self._location_of[name]) for name in kept], dtype=np.int64).reshape(-1, 3)
        return TarFiles(self.location, [self._archive], StringArray(kept), table)


def open_tar(path: Path) -> RandomAccessFile:
    """Open a tar archive for random access; a gzipped one is unpacked into memory.

    Raises:
        UsageError: if it cannot be read, or unpacks to more than the memory limit.
    """
    file = FileAt(path)
    return MemoryAt(path, encoded.MAX_BYTES_IN_MEMORY) if file.read(0, 2) == b"\x1f\x8b" else file


def find_list(tree: Tree, basename: str) -> str | None:
    """Name of the least nested file with this base name, or ``None``."""
    found = [name for name in tree.names.others if composed(name.rpartition("/")[2]) == basename]
    return min(found, key=lambda name: (name.count("/"), name), default=None)
