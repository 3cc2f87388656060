"""Structs and numeric matrices in MAT-files of version 5, the layout before MATLAB 7.3.

Layout after The MathWorks' "MAT-File Format": 128 bytes of text, version and byte order, then elements, each with a
type, a size and content; most matrices are compressed. Every size is validated before it is used, so that a corrupt
file raises an error instead of crashing the reader.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from undiffuse.errors import UsageError

MAX_BYTES = 4 * 2**30  # total decompressed size; protects against decompression bombs
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_STRUCT = 2
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MAX_DEPTH, _MAX_FIELDS = 8, 1000
_CHUNK = 2**20


class _DamagedError(Exception):
    """A problem in the file; the message does not include the file's name."""


class _Element(NamedTuple):
    """The content of an element and the offset of the next one."""

    kind: int
    content: memoryview
    end: int


def read_variables(path: Path) -> dict[str, Any]:
    """The variables of a file: a struct as a dictionary of its fields, a numeric matrix as an array, else ``None``.

    Raises:
        UsageError: not a file of version 5, corrupt, truncated, or larger than ``MAX_BYTES`` when decompressed.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a file emnist-*.mat")
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if content[:10] != b"MATLAB 5.0" or content[126:_HEADER] not in (b"IM", b"MI"):
        kind = "cut short" if b"MATLAB 5.0".startswith(content[:10]) else "not a MATLAB 5.0 file"
        raise UsageError(f"{path}: {kind}; expected EMNIST's emnist-*.mat as published")
    try:
        return _variables(memoryview(content), "<" if content[126:_HEADER] == b"IM" else ">")
    except _DamagedError as problem:
        raise UsageError(f"{path}: {problem}; fetch it again") from None


def _variables(content: memoryview, order: str) -> dict[str, Any]:
    result, left, at = dict[str, Any](), MAX_BYTES, _HEADER
    while at < len(content):
        element = _element(content, at, order)
        at = element.end
        if element.kind == _COMPRESSED:
            unpacked = _unpacked(element.content, left)
            left -= len(unpacked)
            element = _element(unpacked, 0, order)
        if element.kind == _MATRIX:
            name, value = _matrix(element.content, order, 0)
            result[name] = value
    return result


def _unpacked(content: memoryview, limit: int) -> memoryview:
    unpack, result = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(content), _CHUNK):
            result += unpack.decompress(content[start : start + _CHUNK], max(limit - len(result), 0) + 1)
            if len(result) > limit:
                raise _DamagedError(f"unpacks to more than the {MAX_BYTES} bytes that are read into memory")
    except zlib.error as error:
        raise _DamagedError(f"damaged ({error})") from None
    return memoryview(result)


def _element(content: memoryview, at: int, order: str) -> _Element:
    """The element at an offset; content of up to four bytes may be stored in the tag."""
    if at + 8 > len(content):
        raise _DamagedError("cut short within an element's tag")
    kind, size = struct.unpack_from(f"{order}2I", content, at)
    start, end = at + 8, at + 8 + size
    if kind >> 16:
        kind, size = kind & 0xFFFF, kind >> 16
        start, end = at + 4, at + 8
        if size > 4:
            raise _DamagedError("damaged: a small element of more than 4 bytes")
    elif kind != _COMPRESSED:
        end = at + 8 + -(-size // 8) * 8
    if start + size > len(content):
        raise _DamagedError("cut short")
    return _Element(kind, content[start : start + size], end)


def _matrix(content: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """(name, value) of a matrix, stored as elements: flags, sizes, name, then the data of its class."""
    if not len(content):
        return "", None
    if depth > _MAX_DEPTH:
        raise _DamagedError("damaged: structs are nested too deeply")
    flags, at = _numbers(content, 0, order)
    sizes, at = _numbers(content, at, order)
    name = _element(content, at, order)
    if not len(flags) or not len(sizes) or min(sizes.tolist()) < 0:
        raise _DamagedError("damaged: a matrix without class or sizes")
    kind, count = int(flags[0]) & 0xFF, math.prod(sizes.tolist())
    text = bytes(name.content).decode("latin-1")
    if kind == _STRUCT and count == 1:
        return text, _fields(content, name.end, order, depth)
    if kind not in _CLASSES:
        return text, None
    values, _ = _numbers(content, name.end, order)
    if len(values) != count:
        raise _DamagedError(f"damaged: {len(values)} numbers in a matrix of {'x'.join(map(str, sizes.tolist()))}")
    return text, values.astype(order + _CLASSES[kind], copy=False).reshape(sizes.tolist(), order="F")


def _fields(content: memoryview, at: int, order: str, depth: int) -> dict[str, Any]:
    """The fields of a struct, stored as: length of a name, all names, one matrix per field."""
    length, at = _numbers(content, at, order)
    names = _element(content, at, order)
    at, step = names.end, int(length[0]) if len(length) == 1 else 0
    if step < 1 or len(names.content) > step * _MAX_FIELDS:
        raise _DamagedError("damaged: a struct whose fields have no names")
    result = dict[str, Any]()
    for start in range(0, len(names.content), step):
        field = _element(content, at, order)
        at = field.end
        name = bytes(names.content[start : start + step]).partition(b"\0")[0].decode("latin-1")
        result[name] = _matrix(field.content, order, depth + 1)[1] if field.kind == _MATRIX else None
    return result


def _numbers(content: memoryview, at: int, order: str) -> tuple[np.ndarray[Any, Any], int]:
    """(numbers of an element, offset of the next element)"""
    element = _element(content, at, order)
    kind = _KINDS.get(element.kind)
    if kind is None or len(element.content) % int(kind[1]):
        raise _DamagedError(f"damaged: an element of type {element.kind} where numbers are expected")
    return np.frombuffer(element.content, dtype=order + kind), element.end
