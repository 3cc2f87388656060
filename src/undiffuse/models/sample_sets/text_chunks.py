"""The texts in a PNG file: ``tEXt``, ``zTXt`` and ``iTXt`` chunks, read without decoding pixels.

Source: PNG specification, third edition, sections 5.3 (chunk layout) and 11.3.3 (textual information).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from undiffuse.errors import UsageError

#: Maximum bytes of one text, before and after decompression; longer ones are not read.
MAX_TEXT_BYTES = 4 * 2**20
#: Maximum number of chunks that are looked at.
MAX_CHUNKS = 100_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_KEY = 79


def read_texts(path: Path, wanted: tuple[str, ...]) -> dict[str, str]:
    """Read the texts of a PNG file with these keys; the first one of each key counts.

    Args:
        path: the file.
        wanted: keys of texts.
    Raises:
        UsageError: if the file is unreadable or not a PNG, or one of these texts is damaged or too long.
    """
    texts: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(_SIGNATURE)) != _SIGNATURE:
                raise UsageError(f"{path} is not a PNG image; give an image that 'undiffuse sample' wrote")
            for kind, data in _text_chunks(file):
                key = data.split(b"\0", 1)[0].decode("latin-1")
                if key in wanted and key not in texts:
                    texts[key] = _decoded(kind, data)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}); check the path") from None
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is damaged ({error}); use an intact copy") from None
    return texts


def _text_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of the text chunks, up to the end of the image or of the file.

    Raises:
        ValueError: if a text is cut, too long or does not match its checksum.
    """
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in _TEXTS:
            file.seek(size + 4, 1)
            continue
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"a text of {size:,} bytes exceeds the limit of {MAX_TEXT_BYTES:,}")
        data, check = file.read(size), file.read(4)
        if len(data) < size or len(check) < 4:
            raise ValueError("the file is cut")
        if zlib.crc32(kind + data) != struct.unpack(">I", check)[0]:
            raise ValueError("a text does not match its checksum")
        yield kind, data


def _decoded(kind: bytes, data: bytes) -> str:
    """The text of a chunk.

    Raises:
        ValueError: if the chunk is malformed.
    """
    key, _, rest = data.partition(b"\0")
    if len(key) > _MAX_KEY:
        raise ValueError("the key of a text is too long")
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _decompressed(rest[1:]).decode("latin-1")
    compressed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        raise ValueError("a text is malformed")
    return (_decompressed(parts[2]) if compressed else parts[2]).decode("utf-8")


def _decompressed(data: bytes) -> bytes:
    try:
        inflating = zlib.decompressobj()
        text = inflating.decompress(data, MAX_TEXT_BYTES)
    except zlib.error as error:
        raise ValueError(f"a compressed text is damaged: {error}") from None
    if inflating.unconsumed_tail:
        raise ValueError(f"a compressed text exceeds {MAX_TEXT_BYTES:,} bytes")
    return text
