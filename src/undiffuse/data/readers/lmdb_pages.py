"""Index of an LMDB file: its keys and the offsets of their values, read page by page without mapping or locking.

Layout after the OpenLDAP project's LMDB 0.9 (data version 1, 64-bit, little-endian): pages of a size that the two meta
pages state, a tree of branch pages over leaf pages, and runs of overflow pages that hold large values. The LMDB library
maps a file and trusts its content, so that a corrupt file may crash the process; here each number is checked first.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEAD = 16  # bytes of a page's header
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_DATA, _NO_VALUE = 0x01, 0x02 | 0x04  # node flags: value on overflow pages; sub-database or duplicates
_NO_PAGE = 2**64 - 1
_MAX_DEPTH = 32
_NODE = struct.Struct("<4H")  # low and high half of the size (or of the page below), flags, length of the key


class Values(NamedTuple):
    """The keys in order, and (N, 2) int64: offset and length of each value in the file."""

    keys: StringArray
    places: npt.NDArray[np.int64]


class _Meta(NamedTuple):
    page_size: int
    depth: int
    root: int
    last_page: int
    transaction: int


def read_values(file: FileAt) -> Values:
    """The index of the main database.

    Raises:
        UsageError: not an LMDB file, truncated, or with an invalid page.
    """
    meta = _meta(file)
    keys, places = StringArray(), array("q")
    if meta.root != _NO_PAGE:
        seen: set[int] = set()
        for page in _leaves(file, meta, meta.root, 0, seen):
            for key, start, size in _entries(file, meta, page):
                keys.append(key)
                places.extend((start, size))
    return Values(keys, np.frombuffer(places, dtype=np.int64).reshape(-1, 2))


def _meta(file: FileAt) -> _Meta:
    """The newer of the two meta pages."""
    first = _meta_at(file, 0)
    try:
        second = _meta_at(file, first.page_size)
    except UsageError:
        second = first  # a writer was interrupted while writing it
    meta = max(first, second, key=lambda found: found.transaction)
    expected = (meta.last_page + 1) * meta.page_size
    if file.size < expected:
        raise UsageError(f"{file.path}: cut short: {file.size} bytes of {expected}; fetch it again")
    if meta.depth > _MAX_DEPTH:
        raise _damaged(file, "a tree that is too deep")
    return meta


def _meta_at(file: FileAt, offset: int) -> _Meta:
    head = file.read(offset, 152)
    if len(head) < 152:
        raise UsageError(f"{file.path}: {file.size} bytes long; expected LSUN's data.mdb")
    magic, version = struct.unpack_from("<2I", head, 16)
    if magic != _MAGIC or version != _VERSION:
        raise UsageError(
            f"{file.path}: no LMDB file of data version 1 (64-bit, little-endian); expected LSUN's data.mdb"
        )
    page_size = struct.unpack_from("<I", head, 40)[0]
    depth = struct.unpack_from("<H", head, 94)[0]
    root, last_page, transaction = struct.unpack_from("<3Q", head, 128)
    if page_size not in (2**power for power in range(8, 17)):
        raise _damaged(file, f"pages of {page_size} bytes")
    return _Meta(page_size, depth, root, last_page, transaction)


def _leaves(file: FileAt, meta: _Meta, number: int, depth: int, seen: set[int]) -> Iterator[bytes]:
    """The leaf pages below a page, in key order."""
    if number in seen or depth > meta.depth:
        raise _damaged(file, f"page {number} is referenced twice")
    seen.add(number)
    page = _page(file, meta, number)
    flags = struct.unpack_from("<H", page, 10)[0]
    if flags & _LEAF:
        yield page
    elif flags & _BRANCH:
        for node in _nodes(file, meta, page):
            low, high, top, _ = _NODE.unpack_from(page, node)
            yield from _leaves(file, meta, low | high << 16 | top << 32, depth + 1, seen)
    else:
        raise _damaged(file, f"page {number} is neither branch nor leaf")


def _page(file: FileAt, meta: _Meta, number: int) -> bytes:
    """Read a page and check the number in its header."""
    page = file.read(number * meta.page_size, meta.page_size) if number <= meta.last_page else b""
    if len(page) < meta.page_size or struct.unpack_from("<Q", page)[0] != number:
        raise _damaged(file, f"page {number} is not where it should be")
    return page


def _nodes(file: FileAt, meta: _Meta, page: bytes) -> Iterator[int]:
    """Offsets of the nodes of a page."""
    lower = struct.unpack_from("<H", page, 12)[0]
    if not _HEAD <= lower <= meta.page_size:
        raise _damaged(file, "a page with an invalid header")
    for (node,) in struct.iter_unpack("<H", page[_HEAD : lower - lower % 2]):
        if not _HEAD <= node <= meta.page_size - _NODE.size:
            raise _damaged(file, "an entry outside its page")
        yield node


def _entries(file: FileAt, meta: _Meta, page: bytes) -> Iterator[tuple[str, int, int]]:
    """(key, offset of its value in the file, length of the value) for each entry of a leaf page."""
    offset = struct.unpack_from("<Q", page)[0] * meta.page_size
    for node in _nodes(file, meta, page):
        low, high, flags, length = _NODE.unpack_from(page, node)
        size, key_at = low | high << 16, node + _NODE.size
        at = key_at + length
        if at + (8 if flags & _BIG_DATA else size) > meta.page_size or flags & _NO_VALUE:
            raise _damaged(file, "an entry that is not a key and its value")
        start = offset + at
        if flags & _BIG_DATA:
            start = _overflow(file, meta, struct.unpack_from("<Q", page, at)[0], size)
        yield page[key_at:at].decode("utf-8", "surrogateescape"), start, size


def _overflow(file: FileAt, meta: _Meta, number: int, size: int) -> int:
    """Offset of a value on overflow pages; these are not checked, which would mean reading the whole file."""
    start = number * meta.page_size + _HEAD
    if number > meta.last_page or start + size > (meta.last_page + 1) * meta.page_size:
        raise _damaged(file, f"a value on page {number}, after the last")
    return start


def _damaged(file: FileAt, what: str) -> UsageError:
    return UsageError(f"{file.path}: damaged: {what}; fetch it again")
