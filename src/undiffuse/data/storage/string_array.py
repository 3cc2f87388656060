"""Many short texts (names, captions) in one buffer: a million of them cost their bytes and five more each.

As Python strings they would cost about sixty bytes each besides their own, and a dictionary of them a hundred more.
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

_LONG = 255  # as the byte before a text: the text's length follows in eight more
_RUN = 1 << 13  # texts that are sorted at once, as Python strings
_SMALLEST = 1 << 4


class StringArray(Sequence[str]):
    """A sequence of texts that may only grow; ``select`` shares the buffer.

    Args:
        texts: what to hold. Names of files that are no valid UTF-8 come back as they were.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # each text after its length; places in four bytes each until the buffer is too long for that
        self._buffer, self._starts = bytearray(), array("I")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add one text; not to a selection, which shares its buffer."""
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
        """The same texts, held compactly."""
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
        """The texts at these positions, in this order; the buffer is not copied."""
        chosen = StringArray()
        chosen._buffer, chosen._starts = self._buffer, taken(self._starts, rows)
        return chosen

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, like a list

    def joined(self) -> bytes:
        """All texts, each ended by a zero byte: the same for the same texts in the same order."""
        return b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in self)


class StringIndex:
    """Where texts stand in a sequence that may grow: six to twelve bytes each.

    Args:
        texts: in which places are looked up.
        key: of a text, by which it is found; the text itself by default.
    """

    def __init__(self, texts: Sequence[str], key: Callable[[str], str] = str) -> None:
        self._texts, self._key, self._count = texts, key, 0
        self._slots = array("I", [0]) * _SMALLEST  # a place plus one; 0 where there is none

    @staticmethod
    def of(texts: Sequence[str], key: Callable[[str], str] = str) -> StringIndex:
        """An index of all of them."""
        index = StringIndex(texts, key)
        for _ in range(len(texts)):
            index.add()
        return index

    def add(self) -> None:
        """Take up the next text; it is found after those of its key that were before."""
        if self._count * 3 >= len(self._slots) * 2:
            self._slots = array("I", [0]) * (2 * len(self._slots))
            for place in range(self._count):
                self._put(place)
        self._put(self._count)
        self._count += 1

    def all_of(self, key: str) -> Iterator[int]:
        """The places of the texts of this key, in order."""
        for slot in self._probed(key):
            place = self._slots[slot] - 1
            if place < 0:
                return
            if self._key(self._texts[place]) == key:
                yield place

    def first(self, key: str) -> int | None:
        """The first of those places; ``None`` if there is none."""
        return next(self.all_of(key), None)

    def _put(self, place: int) -> None:
        free = next(slot for slot in self._probed(self._key(self._texts[place])) if not self._slots[slot])
        self._slots[free] = place + 1

    def _probed(self, key: str) -> Iterator[int]:
        """The slots to look at, one after another; there is always an empty one."""
        mask = len(self._slots) - 1
        slot = hash(key) & mask
        while True:
            yield slot
            slot = (slot + 1) & mask


def sorted_rows(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """The places of the texts in the order of the texts, equal ones in that of their places.

    Only some thousand are in memory as Python strings: sorted runs of so many are merged.
    """
    count = len(texts)
    if all(map(operator.le, texts, islice(texts, 1, None))):
        return np.arange(count, dtype=np.uint32)
    runs = (sorted(range(start, min(start + _RUN, count)), key=texts.__getitem__) for start in range(0, count, _RUN))
    merged = heapq.merge(*(array("I", run) for run in runs), key=texts.__getitem__)
    return np.fromiter(merged, dtype=np.uint32, count=count)


def taken(values: array[int], rows: npt.NDArray[np.integer[Any]]) -> array[int]:
    """The numbers at these positions, as an array of Python's, which reads one at a time faster than numpy's."""
    chosen: array[int] = array(values.typecode)
    chosen.frombytes(np.asarray(values)[rows].view(np.uint8).data)
    return chosen
