"""Log of the processed images, one row per image, in a file next to the archive that is being written.

A killed run is resumed from it, and the archive's directory is generated from it, so that it need not be in memory. The
first line is a JSON header; each row ends with its checksum, and the log ends at the first truncated or corrupt row. A
row is written only after its image is on the disk.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from undiffuse.checksums import is_modified, parse_json, with_checksum

_FIELDS = struct.Struct("<8sB2L16s16sH")  # key, reason, size, crc, pixel hash, found hash, length of the text
_CRC = struct.Struct("<L")
_MAX_TEXT, _MAX_HEADER_BYTES = 2000, 2**20
_COMMIT_SECONDS, _COMMIT_ROWS = 1.0, 8192

_sync = getattr(os, "fdatasync", os.fsync)


class Row(NamedTuple):
    """Result for one image: size and checksum of its PNG, or the reason why it was skipped."""

    key: bytes
    reason: int
    size: int
    crc: int
    pixel_hash: bytes
    source_hash: bytes
    text: str

    def packed(self) -> bytes:
        """Encode the row for the file."""
        text = self.text[:_MAX_TEXT].encode("utf-8", "surrogateescape")
        fields = (self.key, self.reason, self.size, self.crc, self.pixel_hash, self.source_hash, len(text))
        content = _FIELDS.pack(*fields) + text
        return content + _CRC.pack(zlib.crc32(content))


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a log; ``None`` if it is missing or corrupt."""
    try:
        with path.open("rb") as file:
            header = parse_json(file.readline(_MAX_HEADER_BYTES))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and not is_modified(header) else None


def read_rows(path: Path) -> Iterator[tuple[Row, int]]:
    """The valid rows of a log, each with the offset of its end."""
    with path.open("rb") as file:
        offset = len(file.readline())
        while len(content := file.read(_FIELDS.size)) == _FIELDS.size:
            key, reason, size, crc, pixel_hash, source_hash, length = _FIELDS.unpack(content)
            rest = file.read(length + _CRC.size)
            content += rest[:length]
            if len(rest) != length + _CRC.size or rest[length:] != _CRC.pack(zlib.crc32(content)):
                return
            offset += len(content) + _CRC.size
            text = rest[:length].decode("utf-8", "surrogateescape")
            yield Row(key, reason, size, crc, pixel_hash, source_hash, text), offset


class ProgressLog:
    """Appends to the archive and to its log.

    Args:
        data: path of the unfinished archive.
        path: path of the log.
        header: content of its header.
        data_end, log_end: offsets to resume from; the rest is truncated. 0 starts a new log.
    """

    def __init__(self, data: Path, path: Path, header: dict[str, Any], data_end: int = 0, log_end: int = 0) -> None:
        self._data, self._file = _open_at(data, data_end), _open_at(path, log_end)
        if log_end == 0:
            self._file.write(json.dumps(with_checksum(header)).encode() + b"\n")
            self._file.flush()
        self._rows, self._count, self._committed = bytearray(), 0, time.monotonic()

    def add(self, row: Row, content: bytes) -> None:
        """Append one image; ``content`` are its bytes in the archive."""
        self._data.write(content)
        self._rows += row.packed()
        self._count += 1
        if self._count >= _COMMIT_ROWS or time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush all added rows to the disk."""
        self._data.flush()
        _sync(self._data.fileno())
        self._file.write(self._rows)
        self._file.flush()
        self._rows, self._count, self._committed = bytearray(), 0, time.monotonic()

    def finish(self, write: Callable[[BinaryIO], None]) -> None:
        """Commit, write the rest of the archive, and flush it to the disk."""
        self.commit()
        write(self._data)
        self._data.flush()
        os.fsync(self._data.fileno())

    def close(self) -> None:
        """Close both files; uncommitted rows are lost."""
        self._data.close()
        self._file.close()


def _open_at(path: Path, end: int) -> BinaryIO:
    file: BinaryIO = path.open("r+b" if end else "wb")
    file.truncate(end)
    file.seek(end)
    return file
