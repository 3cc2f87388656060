"""The IDX format of MNIST: a magic number, the sizes as big-endian 32-bit integers, then the bytes; gzipped or not.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

Bytes = npt.NDArray[np.uint8]

MAX_BYTES = 4 * 2**30  # larger than any published set; protects against gzip bombs
_GZIP_BEST_RATIO = 1040  # the maximum ratio of deflate is about 1032:1
_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Bytes:
    """The array of unsigned bytes in an IDX file, gzipped or not.

    Raises:
        UsageError: not an IDX file, not of bytes, truncated, or longer than its header states.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb") as file:
            sizes = _header(path, file)
            return _body(path, file, sizes, path.stat().st_size * (_GZIP_BEST_RATIO if zipped else 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the gzip file is damaged or cut short ({error}); fetch it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _header(path: Path, file: BinaryIO) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4:
        raise UsageError(f"{path}: {len(magic)} bytes long; expected an IDX (MNIST-format) file")
    if magic[:2] != b"\0\0" or not 1 <= magic[3] <= 8:
        raise UsageError(f"{path}: starts with {magic.hex()}, not an IDX magic number such as 00000803; check the file")
    if magic[2] != _UNSIGNED_BYTE:
        raise UsageError(f"{path}: holds IDX values of type 0x{magic[2]:02x}; expected unsigned bytes (0x08)")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UsageError(f"{path}: cut short within its header; fetch it again")
    return struct.unpack(f">{magic[3]}I", sizes)


def _body(path: Path, file: BinaryIO, sizes: tuple[int, ...], limit: int) -> Bytes:
    expected = math.prod(sizes)
    shape = "x".join(map(str, sizes))
    if expected > limit:  # checked before reading: a header may state any size
        raise UsageError(
            f"{path}: cut short: its header states {shape} = {expected} bytes and the file has fewer; fetch it again"
        )
    if expected > MAX_BYTES:
        raise UsageError(f"{path}: {shape} = {expected} bytes are more than the {MAX_BYTES} that are read into memory")
    content = file.read(expected + 1)
    if len(content) != expected:
        found = f"only {len(content)} bytes follow" if len(content) < expected else "more bytes follow"
        raise UsageError(f"{path}: its header states {shape} = {expected} bytes but {found}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(sizes)
