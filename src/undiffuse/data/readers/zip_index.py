"""The central directory of a zip archive, read into arrays: no object per member, and nothing is extracted.

Layout after PKWARE's "APPNOTE.TXT" (4.3.12 central directory, 4.3.14-16 its end, 4.5.3 zip64), little-endian
throughout. Member names are treated as text and never used as paths to write to.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.storage.string_array import take_rows
from undiffuse.errors import UsageError

STORED, DEFLATED = 0, 8
ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8, _UNICODE_PATH = 0x800, 0x7075
_END, _END64, _LOCATOR64, _ENTRY = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"
_END_FIELDS, _END64_FIELDS = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_ENTRY_FIELDS = struct.Struct("<4s6H3L5H2L")
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_WINDOW = 1 << 18  # bytes of the directory in memory at once; an entry has at most 196,651
_LINK = 0o120000  # of the Unix mode in the upper half of the external attributes


class Entry(NamedTuple):
    """One member's entry in the directory."""

    name: str
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int
    is_link: bool


class MemberTable:
    """Offsets, sizes and checksums of members, 21 bytes each."""

    def __init__(self) -> None:
        self.offsets, self.stored, self.sizes, self.crcs = array("q"), array("I"), array("I"), array("I")
        self.methods = array("B")

    def __len__(self) -> int:
        return len(self.methods)

    def add(self, entry: Entry) -> None:
        """Append one row; sizes are clipped to 4 GiB, because larger members are never read."""
        self.offsets.append(entry.offset)
        self.stored.append(min(entry.stored, _FULL32))
        self.sizes.append(min(entry.size, _FULL32))
        self.crcs.append(entry.crc)
        self.methods.append(entry.method)

    def arrange(self, rows: npt.NDArray[np.integer[Any]]) -> None:
        """Keep only these rows, in this order."""
        for column in ("offsets", "stored", "sizes", "crcs", "methods"):
            setattr(self, column, take_rows(getattr(self, column), rows))


class _Buffer:
    """Buffered sequential reads of a part of a file.

    Args:
        file: the file.
        start: offset of the part.
        size: size of the part in bytes.
    """

    def __init__(self, file: FileAt, start: int, size: int) -> None:
        self._file, self._start, self.size = file, start, size
        self._content, self._position = b"", 0

    def read(self, position: int, size: int) -> bytes:
        """``size`` bytes from offset ``position`` of the part; fewer at its end. Fastest for increasing offsets."""
        begin = position - self._position
        if begin < 0 or begin + size > len(self._content):
            length = max(0, min(max(size, _WINDOW), self.size - position))
            self._content, self._position, begin = self._file.read(self._start + position, length), position, 0
        return self._content[begin : begin + size]


def read_entries(file: FileAt) -> Iterator[Entry]:
    """The members of an archive in directory order, without folders.

    Raises:
        UsageError: not a zip archive, truncated, corrupt, or one part of a split archive.
    """
    count, start, size, shift = _directory(file)
    directory, position = _Buffer(file, start, size), 0
    for _ in range(count):
        fields = directory.read(position, _ENTRY_FIELDS.size)
        if len(fields) < _ENTRY_FIELDS.size or fields[:4] != _ENTRY:
            raise _damaged(file.path)
        _, _, _, flags, method, *rest = _ENTRY_FIELDS.unpack(fields)
        _, _, crc, stored, size, *lengths, _, _, attributes, offset = rest
        texts = directory.read(position + _ENTRY_FIELDS.size, sum(lengths))
        position += _ENTRY_FIELDS.size + sum(lengths)
        if len(texts) < sum(lengths):
            raise _damaged(file.path)
        if _FULL32 in (stored, size, offset):
            extra = texts[lengths[0] : lengths[0] + lengths[1]]
            size, stored, offset = _wide(extra, (size, stored, offset), file.path)
        if offset + shift + stored > start:
            raise UsageError(
                f"{file.path}: damaged: according to its directory a member extends into it; fetch it again"
            )
        name = _text(texts[: lengths[0]], texts[lengths[0] : lengths[0] + lengths[1]], flags)
        if not name.endswith("/"):
            is_link = attributes >> 16 & 0o170000 == _LINK
            yield Entry(name, flags, method, crc, stored, size, offset + shift, is_link)


def has_another_before(file: FileAt) -> bool:
    """Whether another archive precedes this one in the file, as in the output of ``cat a.zip b.zip``."""
    *_, shift = _directory(file)
    return shift > 0 and file.read(0, 4) == b"PK\3\4"


def _directory(file: FileAt) -> tuple[int, int, int, int]:
    """(number of members, offset of the directory, its size, shift to add to every stored offset)."""
    tail_at = max(0, file.size - _END_FIELDS.size - _FULL16)
    tail = file.read(tail_at, file.size - tail_at)
    position = _end_record(tail)
    if position < 0:
        raise _no_end(file)
    _, disk, first_disk, _, count, size, start, _ = _END_FIELDS.unpack_from(tail, position)
    end = tail_at + position
    if _FULL16 in (disk, count) or _FULL32 in (size, start):
        disk, first_disk, count, size, start, end = _wide_end(file, end, (disk, first_disk, count, size, start))
    if disk or first_disk:
        raise UsageError(f"{file.path}: one part of an archive in several; join them first")
    shift = end - size - start  # data before the archive, as in self-extracting archives
    if shift < 0 or count * _ENTRY_FIELDS.size > size:
        raise _damaged(file.path)
    return count, start + shift, size, shift


def _end_record(tail: bytes) -> int:
    """Offset of the end record in the last bytes: the record whose comment ends with the file, else the last one."""
    position = last = tail.rfind(_END, 0, len(tail) - _END_FIELDS.size + len(_END))
    while position >= 0:
        if position + _END_FIELDS.size + struct.unpack_from("<H", tail, position + 20)[0] == len(tail):
            return position
        position = tail.rfind(_END, 0, position)
    return last


def _wide_end(file: FileAt, end: int, narrow: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int, int]:
    """(disk, first disk, count, size, start, end) of the zip64 record; the values of ``narrow`` if there is none."""
    locator = file.read(end - 20, 20) if end >= 20 else b""
    if locator[:4] != _LOCATOR64:
        return (*narrow, end)
    stated = struct.unpack("<Q", locator[8:16])[0]
    for position in (stated, end - 20 - _END64_FIELDS.size):
        record = file.read(position, _END64_FIELDS.size) if 0 <= position < end else b""
        if len(record) == _END64_FIELDS.size and record[:4] == _END64:
            _, _, _, _, disk, first_disk, _, count, size, start = _END64_FIELDS.unpack(record)
            return disk, first_disk, count, size, start, position
    raise _damaged(file.path)


def _wide(extra: bytes, values: tuple[int, int, int], path: Path) -> tuple[int, int, int]:
    """(size, stored, offset), each from the zip64 field if its 32-bit field is saturated."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{min(length, len(extra) - position - 4) // 8}Q", extra, position + 4))
            size, stored, offset = (next(numbers, -1) if value == _FULL32 else value for value in values)
            if min(size, stored, offset) < 0:
                break
            return size, stored, offset
        position += 4 + length
    raise _damaged(path)


def _text(name: bytes, extra: bytes, flags: int) -> str:
    """Decode a name: UTF-8, flagged or not or in the Unicode path field; otherwise code page 437."""
    try:
        unicode_path = "" if flags & _UTF8 or name.isascii() else _unicode_path(name, extra)
        text = unicode_path or name.decode("utf-8", "surrogateescape" if flags & _UTF8 else "strict")
    except UnicodeDecodeError:
        text = name.decode("cp437")
    return text.replace("\\", "/")


def _unicode_path(name: bytes, extra: bytes) -> str:
    """The name in Info-ZIP's field 0x7075 (APPNOTE 4.6.9: version, checksum, UTF-8), if its checksum matches."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        field = extra[position + 4 : position + 4 + length]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and field[1:5] == struct.pack("<L", zlib.crc32(name)):
            return field[5:].decode("utf-8", "replace")
        position += 4 + length
    return ""


def _no_end(file: FileAt) -> UsageError:
    if file.size == 0:
        return UsageError(f"{file.path}: the file is empty (0 bytes); expected a zip archive")
    if file.read(0, 4) == b"PK\3\4":
        return UsageError(f"{file.path}: the archive is cut short: the directory at its end is missing; fetch it again")
    return UsageError(f"{file.path}: not a zip archive, despite its name; expected an archive of images")


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path}: the archive's directory is damaged; fetch it again")
