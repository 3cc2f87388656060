"""Writer of zip archives, member by member; the caller provides the list of members for the directory.

Members are stored, not compressed. The standard library's writer keeps an object of a few hundred bytes per member and
writes the current time; this one keeps nothing and writes the earliest date of the format. Layout after PKWARE's
"APPNOTE.TXT" (4.3.7 local header, 4.3.12 directory, 4.3.14-16 its end, 4.5.3 zip64).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

_LOCAL, _ENTRY = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_VERSION, _VERSION64 = 20, 45
_DAY = 1 << 5 | 1  # 1980-01-01
_UNIX, _MODE = 3 << 8, 0o100644 << 16


class Member(NamedTuple):
    """Directory entry of one member, without its offset."""

    name: str
    crc: int
    size: int


def member_bytes(name: str, content: bytes, crc: int) -> bytes:
    """The bytes of one member in the archive: local header and content."""
    return _local_header(name, crc, len(content)) + content


def member_size(name: str, size: int) -> int:
    """Length of ``member_bytes``."""
    return _LOCAL.size + len(name) + size


def _local_header(name: str, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DAY, crc, size, size, len(name), 0) + name.encode("ascii")


class ZipEnd:
    """Writes the part after the images: metadata files and the directory.

    Args:
        file: open for writing, at the end of the last image.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lists: list[tuple[Member, int]] = []

    @contextmanager
    def member(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """Start a new member of less than 4 GiB; yields a function that appends to it."""
        start, crc, size = self._file.tell(), 0, 0

        def write(content: bytes) -> None:
            nonlocal crc, size
            crc, size = zlib.crc32(content, crc), size + len(content)
            self._file.write(content)

        self._file.write(_local_header(name, 0, 0))
        yield write
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(_local_header(name, crc, size))
        self._file.seek(end)
        self._lists.append((Member(name, crc, size), start))

    def write_directory(self, images: Iterable[Member], first: int = 0) -> None:
        """Write the directory of the images, stored contiguously from offset ``first``, and of the metadata files."""
        start, count, offset = self._file.tell(), 0, first
        for member in images:
            self._file.write(_entry(member, offset))
            offset += member_size(member.name, member.size)
            count += 1
        for member, offset in self._lists:
            self._file.write(_entry(member, offset))
            count += 1
        self._file.write(_end(count, start, self._file.tell() - start))


def _entry(member: Member, offset: int) -> bytes:
    far = offset >= _FULL32
    extra = struct.pack("<2HQ", 1, 8, offset) if far else b""
    version = _VERSION64 if far else _VERSION
    name, place = member.name.encode("ascii"), _FULL32 if far else offset
    sizes = (member.crc, member.size, member.size, len(name), len(extra))
    fields = (_UNIX | version, version, 0, 0, 0, _DAY, *sizes, 0, 0, 0, _MODE, place)
    return _ENTRY.pack(b"PK\1\2", *fields) + name + extra


def _end(count: int, start: int, size: int) -> bytes:
    """The end record, preceded by the zip64 end record if a number does not fit."""
    wide = b""
    if count >= _FULL16 or start >= _FULL32 or size >= _FULL32:
        version = _UNIX | _VERSION64
        wide = _END64.pack(b"PK\6\6", _END64.size - 12, version, _VERSION64, 0, 0, count, count, size, start)
        wide += _LOCATOR64.pack(b"PK\6\7", 0, start + size, 1)
    narrow = min(count, _FULL16), min(count, _FULL16), min(size, _FULL32), min(start, _FULL32)
    return wide + _END.pack(b"PK\5\6", 0, 0, *narrow, 0)
