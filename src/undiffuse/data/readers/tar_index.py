"""Index of the members of a tar archive by offset; nothing is extracted and links are not followed.

Layout after POSIX.1-2001 (ustar and its extended headers of type ``x``) and GNU tar's long names (type ``L``): blocks
of 512 bytes, a header before each member's content, two blocks of zeros at the end. If another archive follows, as in
the output of ``cat a.tar b.tar``, it is read too.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.sources.layout.tar_files import BLOCK, has_checksum
from undiffuse.errors import UsageError

_MAX_EXTRA = 2**20  # bytes of a long name or an extended header
_MAX_DIGITS = 20  # of a number in an extended header; Python raises an error for thousands of digits
_CHUNK = 2**22
_MAX_CACHED = 50_000  # members of one archive in memory, 12 MB


class RandomAccessFile(Protocol):
    """Bytes that can be read by offset."""

    path: Path
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end."""

    def close(self) -> None:
        """Release file or memory."""


class MemoryAt:
    """The content of a gzipped file, decompressed into memory: gzip has no random access.

    Args:
        path: the gzipped file.
        limit: maximum number of bytes after decompression.

    Raises:
        UsageError: unreadable, corrupt, truncated, or larger than ``limit``.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, content = path, bytearray()
        try:
            with gzip.open(path) as file:
                while chunk := file.read(_CHUNK):
                    content += chunk
                    if len(content) > limit:
                        raise UsageError(
                            f"{path}: unpacks to more than the {limit} bytes that are held in memory, and a gzipped "
                            f"shard cannot be read in place; unpack it once with gunzip"
                        )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError(f"{path}: the gzip file is damaged or cut short ({error}); fetch it again") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
        self._content, self.size = bytes(content), len(content)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end."""
        return self._content[offset : offset + size]

    def close(self) -> None:
        """Free the memory."""
        self._content = b""


class ReopenedFile:
    """A file that is opened for each read, for archives of too many files to keep open."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, FileAt(path).size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end."""
        return FileAt(self.path).read(offset, size)

    def close(self) -> None:
        """No-op: no file is open."""


class Member(NamedTuple):
    """A member of an archive; only regular files have content."""

    name: str
    offset: int
    size: int
    is_plain: bool


def read_members(archive: RandomAccessFile) -> Iterator[Member]:
    """The members in file order, without folders; includes archives appended to the first.

    Raises:
        UsageError: not a tar archive, corrupt or truncated; the members yielded before are valid.
    """
    offset, long_name, long_size = 0, "", -1
    while (header := _header(archive, offset)) or (offset := _next_archive(archive, offset)):
        if not header:
            continue
        kind, name, size = _fields(header, archive, offset)
        if kind in b"xL" and size > _MAX_EXTRA:
            raise _damaged(archive, offset)
        size = long_size if long_size >= 0 and kind not in b"xgLK" else size
        content_at = offset + BLOCK
        offset = content_at + -(-size // BLOCK) * BLOCK
        if content_at + size > archive.size:
            raise UsageError(f"{archive.path}: the shard is cut short: {name!r} ends after its end; fetch it again")
        if kind == b"L":
            long_name = _text(archive.read(content_at, size))
        elif kind == b"x":
            long_name, long_size = _extended(archive.read(content_at, size), long_name)
        elif kind not in b"gK":
            if kind != b"5":
                yield Member(long_name or name, content_at, size, kind in b"\0" + b"07")
            long_name, long_size = "", -1


class Headers:
    """The members of an archive, for repeated iteration: cached unless there are too many.

    Args:
        archive: the archive file.
    """

    def __init__(self, archive: RandomAccessFile) -> None:
        self._archive, self._cached = archive, list[Member]()
        self._complete = False

    def __iter__(self) -> Iterator[Member]:
        return iter(self._cached) if self._complete else self._read()

    def _read(self) -> Iterator[Member]:
        cached: list[Member] = []
        for member in read_members(self._archive):
            if len(cached) <= _MAX_CACHED:
                cached.append(member)
            yield member
        if len(cached) <= _MAX_CACHED:
            self._cached, self._complete = cached, True


def _header(archive: RandomAccessFile, offset: int) -> bytes:
    """The next header; empty at the end of the archive."""
    block = archive.read(offset, BLOCK)
    if len(block) == BLOCK and not any(block):
        return b""
    if not block and offset == 0:
        raise UsageError(f"{archive.path}: the file is empty (0 bytes); expected a tar archive")
    if len(block) < BLOCK and offset > 0:
        raise UsageError(f"{archive.path}: the shard is cut short: the mark of its end is missing; fetch it again")
    if not has_checksum(block):
        raise _damaged(archive, offset)
    return block


def _next_archive(archive: RandomAccessFile, offset: int) -> int:
    """Offset of another archive after the blocks of zeros at ``offset``; 0 if there is none."""
    while chunk := archive.read(offset, _CHUNK):
        blank = len(chunk) - len(chunk.lstrip(b"\0"))
        if blank < len(chunk):
            offset += blank // BLOCK * BLOCK
            return offset if has_checksum(archive.read(offset, BLOCK)) else 0
        offset += len(chunk)
    return 0


def _fields(header: bytes, archive: RandomAccessFile, offset: int) -> tuple[bytes, str, int]:
    """(type, name, size) of a header."""
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    digits = header[124:136]
    if digits[0] & 0x80:  # GNU binary number
        return header[156:157], name, int.from_bytes(digits[1:], "big")
    octal = digits.strip(b" \0") or b"0"
    if set(octal) - set(b"01234567"):  # Python would accept a sign; a negative size would loop forever
        raise _damaged(archive, offset)
    return header[156:157], name, int(octal, 8)


def _extended(content: bytes, name: str) -> tuple[str, int]:
    """(name, size) in an extended header, records of the form ``length key=value``; size -1 if it has none."""
    size = -1
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or len(length) > _MAX_DIGITS or not 0 < int(length) <= len(content):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit():
            size = int(value[:_MAX_DIGITS])
        content = content[int(length) :]
    return name, size


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _damaged(archive: RandomAccessFile, offset: int) -> UsageError:
    if offset == 0:
        return UsageError(f"{archive.path}: not a tar archive, despite its name; expected a shard of images")
    return UsageError(f"{archive.path}: the shard is damaged at byte {offset}; fetch it again")
