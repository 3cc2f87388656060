"""A zip archive of images as a data set, read without unpacking.

Any archive is supported, with classes, labels and captions as in a folder, including those of the StyleGAN and EDM
tools with their ``dataset.json``. A member that is stored without compression (as those tools and ``data prepare``
write it) is read directly at its offset in the file.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from undiffuse.data.config import ZipConfig
from undiffuse.data.dataset import Dataset, Hashes, Indices
from undiffuse.data.readers.decoding.notes import storage_record
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.text import readable
from undiffuse.data.readers.zip_index import (
    DEFLATED,
    ENCRYPTED,
    STORED,
    Entry,
    MemberTable,
    has_another_before,
    read_entries,
)
from undiffuse.data.sources.layout.captions import SidecarReader, annotate
from undiffuse.data.sources.layout.folder_files import Names, check_has_images, is_image_file, is_shown
from undiffuse.data.sources.layout.ignored_items import ARCHIVE, ARCHIVE_BEFORE, HIDDEN, LINK, IgnoredItems, kind_of
from undiffuse.data.sources.layout.metadata import parse_json
from undiffuse.data.sources.layout.sample_sets import without_grids
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray, StringIndex, sorted_rows
from undiffuse.errors import UsageError

MAX_MEMBER_BYTES = 2**28  # limit for one image
_DEFLATE_BEST_RATIO = 1040  # deflate compresses by at most about 1032:1
_LOCAL_HEADER = 30
ORIGINAL_HASHES, MANIFEST = "hashes.bin", "manifest.json"
_MAX_MANIFEST_BYTES = 2**20
_ORIGINAL = np.dtype([("hash", "u1", 8), ("crc", "<u4")])  # per image, in the order of the names
_READ = (".txt", ".json", ".jsonl", ".csv", ORIGINAL_HASHES)


class ZipFiles(EncodedFiles):
    """Members of an archive.

    Args:
        file: the archive.
        names: names of the members.
        table: offsets and sizes of the members.
        hashes: (N, 8) uint8, the leading bytes of the hashes of the original images, if known.
    """

    def __init__(self, file: FileAt, names: StringArray, table: MemberTable, hashes: Hashes | None = None) -> None:
        super().__init__(file.path)
        self._file, self._names, self._table, self._hashes = file, names, table, hashes

    def __len__(self) -> int:
        return len(self._names)

    def title(self, index: int) -> str:
        return readable(f"{self.location}!{self._names[index]}")

    def read(self, index: int) -> bytes:
        return read_member(self._file, self._table, index, self.title(index))

    def split_hash(self, index: int) -> bytes:
        return b"" if self._hashes is None else self._hashes[index].tobytes()

    def release(self) -> None:
        self._file.close()


def read_member(file: FileAt, table: MemberTable, row: int, title: str) -> bytes:
    """Read the content of one member and verify its checksum.

    Raises:
        UsageError: if the member is damaged, truncated, or of another size than the directory states.
    """
    offset, stored, size = table.offsets[row], table.stored[row], table.sizes[row]
    header = file.read(offset, _LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\3\4":
        raise UsageError(f"{title}: the archive is damaged or was changed: the member is not at its offset")
    content = file.read(offset + _LOCAL_HEADER + sum(struct.unpack_from("<2H", header, 26)), stored)
    if len(content) == stored and table.methods[row] == DEFLATED:
        content = _inflate(content, size, title)
    if len(content) != size or zlib.crc32(content) != table.crcs[row]:
        raise UsageError(f"{title}: damaged or cut short (wrong checksum)")
    return content


def _inflate(content: bytes, size: int, title: str) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except zlib.error as error:
        raise UsageError(f"{title}: damaged or cut short ({error})") from None


class Members:
    """Names of members, with their offsets and sizes in the same order."""

    def __init__(self) -> None:
        self.names, self.table = StringArray(), MemberTable()
        self._index = StringIndex(self.names)

    def add(self, entry: Entry) -> None:
        """Add a member."""
        self.names.append(entry.name)
        self.table.add(entry)
        self._index.add()

    def row_of(self, name: str) -> int | None:
        """Row of the member with this name; ``None`` if there is none."""
        return self._index.first(name)

    def sort(self) -> None:
        """Sort the members by name."""
        rows = sorted_rows(self.names)
        self._index = StringIndex(StringArray())
        self.names = self.names.select(rows)
        self.table.arrange(rows)


class ZipSidecars(SidecarReader):
    """Annotation files of an archive."""

    def __init__(self, file: FileAt, members: Members) -> None:
        self.location, self._file, self._members = file.path, file, members

    def title_of(self, name: str) -> str:
        return readable(f"{self.location}!{name}")

    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        row, title, table = self._members.row_of(name), self.title_of(name), self._members.table
        if row is None:
            raise UsageError(f"{title}: no such member")
        if table.sizes[row] > max_bytes:
            raise UsageError(f"{title}: {table.sizes[row]} bytes exceed the limit of {max_bytes} for a text file")
        return read_member(self._file, table, row, title)


class ZipIndex:
    """Members that can be read, with the images sorted by name, and those that are left out."""

    def __init__(self, file: FileAt, skips: Skips) -> None:
        self.images, self.others, self.left_out = Members(), Members(), IgnoredItems()
        for entry in read_entries(file):
            if is_image_file(entry.name) or entry.name.lower().endswith(_READ):
                self._take(entry, file.path, skips)
            else:
                self.left_out.add(kind_of(entry.name) if _is_visible(entry.name) else HIDDEN, entry.name)
        if has_another_before(file):
            self.left_out.add(ARCHIVE_BEFORE, file.path.name)
        self.images.sort()

    @property
    def names(self) -> Names:
        """Names of the images, and of the other members that can be read."""
        return Names(self.images.names, self.others.names, self.left_out)

    def _take(self, entry: Entry, location: Path, skips: Skips) -> None:
        if _is_unsafe_name(entry.name):
            where = f"{location}!{entry.name!r}"
            skips.take(UsageError(f"{where}: the member's name leads out of the archive; expected a path inside it"))
            return
        if entry.is_link or not _is_visible(entry.name):
            self.left_out.add(LINK if entry.is_link else HIDDEN, entry.name)
            return
        members = self.images if is_image_file(entry.name) else self.others
        if (error := self._error_of(entry, members, readable(f"{location}!{entry.name}"))) is not None:
            skips.take(error)
        else:
            members.add(entry)

    def _error_of(self, entry: Entry, members: Members, title: str) -> UsageError | None:
        if members.row_of(entry.name) is not None:
            return UsageError(f"{title}: there are two members with this name")
        if entry.flags & ENCRYPTED:
            return UsageError(f"{title}: encrypted; unpack the archive with its password and name the folder")
        if entry.method not in (STORED, DEFLATED):
            return UsageError(f"{title}: compressed by method {entry.method}; expected stored (0) or deflated (8)")
        if entry.size > entry.stored * _DEFLATE_BEST_RATIO + 1024:
            return UsageError(f"{title}: claims {entry.size} bytes out of {entry.stored}, more than deflate can store")
        if is_image_file(entry.name) and entry.size > MAX_MEMBER_BYTES:
            return UsageError(f"{title}: {entry.size} bytes exceed the limit of {MAX_MEMBER_BYTES} for an image")
        return None


def _is_unsafe_name(name: str) -> bool:
    return name.startswith("/") or name[1:2] == ":" or "\0" in name or ".." in name.split("/")


def _is_visible(name: str) -> bool:
    return all(is_shown(part) for part in name.split("/") if part)


def load(config: ZipConfig) -> Dataset:
    """Load the images of an archive, sorted by name.

    Raises:
        UsageError: if the file is not an archive, is damaged or has no images, the options do not fit, or (unless
            ``on_error=skip``) a member is damaged, encrypted, too large, smaller than the training size, has an unsafe
            name or lacks a label or caption that others have; the message names archive and member.
    """
    file, skips = FileAt(config.location), Skips(config.on_error)
    index = ZipIndex(file, skips)
    if skips.count and not index.images.names:
        skips.check_images_left(0, skips.count)
    names = index.names
    nested = f"unpack {config.location} and name what is in it" if index.left_out.count_of(ARCHIVE) else ""
    check_has_images(names, config.location, "archive", nested)
    reader = ZipSidecars(file, index.others)
    names, kept = without_grids(reader, names, skips)
    found = annotate(reader, names, config, skips)
    hashes, prepared = _original_hashes(file, index), _manifest_notes(file, index)
    index.left_out.add_others(name for name in found.unused if name not in (ORIGINAL_HASHES, MANIFEST))
    about = {**found.notes, **index.left_out.notes, **prepared}
    files = zip_files(file, index.images, kept[found.rows], hashes)
    return load_encoded(config, files, found.classes.labels, found.classes.names, found.captions, about, skips)


def zip_files(file: FileAt, members: Members, rows: Indices, hashes: Hashes | None = None) -> ZipFiles:
    """Select the members at these rows, in this order; ``members`` is modified and the others are freed.

    Args:
        file: the archive.
        members: members to select from.
        rows: rows of the selected members.
        hashes: hashes of all members, if known; see ``ZipFiles``.
    """
    if not np.array_equal(rows, np.arange(len(members.names))):
        members.names = members.names.select(rows)
        members.table.arrange(rows)
        hashes = None if hashes is None else hashes[rows]
    return ZipFiles(file, members.names, members.table, hashes)


def _original_hashes(file: FileAt, index: ZipIndex) -> Hashes | None:
    """(N, 8) from the ``hashes.bin`` that ``data prepare`` writes, if its checksums match the images."""
    row, table = index.others.row_of(ORIGINAL_HASHES), index.others.table
    if row is None or table.sizes[row] != len(index.images.names) * _ORIGINAL.itemsize:
        return None
    known = np.frombuffer(read_member(file, table, row, f"{file.path}!{ORIGINAL_HASHES}"), dtype=_ORIGINAL)
    is_match = np.array_equal(known["crc"], np.asarray(index.images.table.crcs))
    return known["hash"].copy() if is_match else None


def _manifest_notes(file: FileAt, index: ZipIndex) -> dict[str, str]:
    """Provenance of the source from the manifest of ``data prepare``; empty if there is none."""
    row, table = index.others.row_of(MANIFEST), index.others.table
    if row is None or table.sizes[row] > _MAX_MANIFEST_BYTES:
        return {}
    try:
        found = parse_json(read_member(file, table, row, f"{file.path}!{MANIFEST}"), MANIFEST)
        source = {key: str(value) for key, value in found["source"].items()}
        about = f"{source['location'] or source['kind']}, {source['num_pictures']} images, {source['fingerprint']}"
    except (UsageError, TypeError, KeyError, AttributeError):  # not a manifest of ``data prepare``
        return {}
    licence = {"licence": source["licence"]} if "licence" in source else {}
    return {"prepared_from": about, **licence, **{key: str(text) for key, text in storage_record(found).items()}}
