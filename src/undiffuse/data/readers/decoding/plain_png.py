"""Reader of the simplest PNG files, which need no image library: 8-bit grey or RGB, rows unfiltered, no metadata.

``data prepare`` writes such files; any viewer reads them. Layout after the PNG specification (ISO/IEC 15948), sections
5 and 11; a row is one byte, the filter type (0 for none), followed by its pixels.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = _SIGNATURE + b"\0\0\0\x0dIHDR"
_HEADER = struct.Struct(">IIBBBBB")
_DATA_AT = len(_START) + _HEADER.size + 4  # the header's checksum
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_CHANNELS = {0: 1, 2: 3}  # of the colour types grey and RGB

Pixels = npt.NDArray[np.uint8]


def read_plain_png(content: bytes, shape: tuple[int, int, int]) -> Pixels | None:
    """(C, H, W) uint8 pixels, or ``None`` if the file is not such a PNG of this shape, or corrupt.

    Args:
        content: bytes of the file.
        shape: (C, H, W).
    """
    channels, height, width = shape
    if not content.startswith(_START) or not content.endswith(_END) or content[_DATA_AT + 4 : _DATA_AT + 8] != b"IDAT":
        return None
    header = _HEADER.unpack_from(content, len(_START))
    if header[:3] != (width, height, 8) or _CHANNELS.get(header[3]) != channels or any(header[4:]):
        return None
    if struct.unpack_from(">I", content, _DATA_AT)[0] != len(content) - _DATA_AT - 12 - len(_END):
        return None  # more than one chunk of data, or other chunks
    row = 1 + width * channels
    unpacked = _unpacked(content[_DATA_AT + 8 : -len(_END) - 4], height * row)
    rows = np.frombuffer(unpacked, dtype=np.uint8).reshape(-1, row)
    if len(rows) != height or rows[:, 0].any() or not _is_valid(content):
        return None
    return np.ascontiguousarray(rows[:, 1:].reshape(height, width, channels).transpose(2, 0, 1))


def _unpacked(data: bytes, size: int) -> bytes:
    """The decompressed data; empty unless they are exactly ``size`` bytes."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, size + 1)
    except zlib.error:
        return b""
    return unpacked if len(unpacked) == size and stream.eof else b""


def _is_valid(content: bytes) -> bool:
    """Whether the checksums of both chunks match."""
    ends = (_DATA_AT - 4, len(content) - len(_END) - 4)
    starts = (len(_SIGNATURE) + 4, _DATA_AT + 4)
    parts = zip(starts, ends, strict=True)
    return all(zlib.crc32(content[at:end]) == struct.unpack_from(">I", content, end)[0] for at, end in parts)
