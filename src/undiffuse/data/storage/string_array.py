"""Many short strings (names, captions) in one buffer: each takes its UTF-8 bytes plus five.

A Python string has an overhead of about 60 bytes, and an entry of a dictionary another 100.
"""

from __future__ import annotations

import heapq
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

_LONG = 255  # as length byte: the length follows in eight more bytes
_RUN = 1 << 13  # strings that are sorted at once, as Python strings
_SMALLEST = 1 << 4


class StringArray(Sequence[str]):
    """An append-only sequence of strings; ``select`` shares the buffer.

    Args:
        texts: initial strings. File names that are not valid UTF-8 are preserved (surrogateescape).
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # each string after its length; offsets of four bytes until the buffer exceeds 4 GiB
        self._buffer, self._starts = bytearray(), array("I")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Append one string; not allowed for a selection, which shares its buffer."""
        content = text.encode("utf-8", "surrogateescape")
        try:
            self._starts.append(len(self._buffer))
        except OverflowError:
            self._starts = array("Q", self._starts)
            self._starts.append(len(self._buffer))
        if len(content) < _LONG:
            self._buffer.append(len(content))
        else:
            self._buffer.append(_LONG)
            self._buffer += len(content).to_bytes(8, "little")
        self._buffer += content

    @staticmethod
    def of(texts: Sequence[str]) -> StringArray:
        """Convert a sequence of strings."""
        return texts if isinstance(texts, StringArray) else StringArray(texts)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringArray: ...
    def __getitem__(self, index: int | slice) -> str | StringArray:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        start = self._starts[index] + 1
        length = self._buffer[start - 1]
        if length == _LONG:
            start, length = start + 8, int.from_bytes(self._buffer[start : start + 8], "little")
        return self._buffer[start : start + length].decode("utf-8", "surrogateescape")

    def select(self, rows: npt.NDArray[np.integer[Any]]) -> StringArray:
        """The strings at these indices, in this order; the buffer is not copied."""
        chosen = StringArray()
        chosen._buffer, chosen._starts = self._buffer, take_rows(self._starts, rows)
        return chosen

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, like a list

    def joined(self) -> bytes:
        """All strings, each terminated by a zero byte."""
        return b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in self)


class StringIndex:
    """Hash index of the positions of strings in a growing sequence: six to twelve bytes each.

    Args:
        texts: the sequence.
        key: maps a string to its lookup key; the identity by default.
    """

    def __init__(self, texts: Sequence[str], key: Callable[[str], str] = str) -> None:
        self._texts, self._key, self._count = texts, key, 0
        self._slots = array("I", [0]) * _SMALLEST  # position plus one; 0 for an empty slot

    @staticmethod
    def of(texts: Sequence[str], key: Callable[[str], str] = str) -> StringIndex:
        """An index of all strings of a sequence."""
        index = StringIndex(texts, key)
        for _ in range(len(texts)):
            index.add()
        return index

    def add(self) -> None:
        """Index the next string; lookups return it after earlier ones with the same key."""
        if self._count * 3 >= len(self._slots) * 2:
            self._slots = array("I", [0]) * (2 * len(self._slots))
            for position in range(self._count):
                self._put(position)
        self._put(self._count)
        self._count += 1

    def all_of(self, key: str) -> Iterator[int]:
        """Positions of the strings with this key, in order."""
        for slot in self._probed(key):
            position = self._slots[slot] - 1
            if position < 0:
                return
            if self._key(self._texts[position]) == key:
                yield position

    def first(self, key: str) -> int | None:
        """The first position with this key; ``None`` if there is none."""
        return next(self.all_of(key), None)

    def _put(self, position: int) -> None:
        free = next(slot for slot in self._probed(self._key(self._texts[position])) if not self._slots[slot])
        self._slots[free] = position + 1

    def _probed(self, key: str) -> Iterator[int]:
        """The probe sequence of a key (linear probing); there is always an empty slot."""
        mask = len(self._slots) - 1
        slot = hash(key) & mask
        while True:
            yield slot
            slot = (slot + 1) & mask


def sorted_rows(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Indices that sort the strings (stable).

    Only a few thousand are in memory as Python strings at a time: sorted runs of that size are merged.
    """
    count = len(texts)
    if all(map(operator.le, texts, islice(texts, 1, None))):
        return np.arange(count, dtype=np.uint32)
    runs = (sorted(range(start, min(start + _RUN, count)), key=texts.__getitem__) for start in range(0, count, _RUN))
    merged = heapq.merge(*(array("I", run) for run in runs), key=texts.__getitem__)
    return np.fromiter(merged, dtype=np.uint32, count=count)


def take_rows(values: array[int], rows: npt.NDArray[np.integer[Any]]) -> array[int]:
    """The numbers at these indices, as a Python ``array``, whose single items are read faster than numpy's."""
    chosen: array[int] = array(values.typecode)
    chosen.frombytes(np.asarray(values)[rows].view(np.uint8).data)
    return chosen
