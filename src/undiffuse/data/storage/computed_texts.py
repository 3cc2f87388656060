"""A sequence of texts that are computed when they are read, such as captions of computed images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from undiffuse.data.storage.string_array import StringArray

Rows = npt.NDArray[np.int64]

_BLOCK = 4096  # texts computed at a time


class ComputedTexts(Sequence[str]):
    """Base class of texts that are a function of numbers; only the numbers of a selection are stored.

    Args:
        count: number of texts.
        rows: (count,) numbers of the texts; 0 to count - 1 by default.
    """

    def __init__(self, count: int, rows: Rows | None = None) -> None:
        self._length, self.rows = count, rows

    @abstractmethod
    def compute(self, rows: Rows) -> list[str]:
        """The texts with these numbers."""

    @abstractmethod
    def selection(self, rows: Rows) -> Self:
        """The same texts, of which the sequence holds those with these numbers."""

    @abstractmethod
    def digest(self) -> bytes:
        """Bytes that determine all texts and their order."""

    def __len__(self) -> int:
        return self._length

    def numbers(self, places: Rows) -> Rows:
        """Numbers of the texts at these places."""
        return places if self.rows is None else self.rows[places]

    def take(self, places: npt.NDArray[np.integer[Any]]) -> list[str]:
        """The texts at these places."""
        return self.compute(self.numbers(np.asarray(places, dtype=np.int64)))

    def select(self, places: npt.NDArray[np.integer[Any]]) -> Self:
        """The sequence of the texts at these places."""
        return self.selection(self.numbers(np.asarray(places, dtype=np.int64)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> str | Self:
        if isinstance(index, slice):
            return self.select(np.arange(self._length)[index])
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(index)
        return self.take(np.array([place]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._length, _BLOCK):
            yield from self.take(np.arange(start, min(start + _BLOCK, self._length)))


Strings = StringArray | ComputedTexts


def stored(texts: Sequence[str]) -> Strings:
    """Strings in a form that takes little memory: computed ones as they are, others in one buffer."""
    return texts if isinstance(texts, ComputedTexts) else StringArray.of(texts)


def texts_at(texts: Sequence[str], places: npt.NDArray[np.integer[Any]]) -> list[str]:
    """The texts at these places."""
    return texts.take(places) if isinstance(texts, ComputedTexts) else [texts[place] for place in places]


def digest_of(texts: Sequence[str]) -> bytes:
    """Bytes that determine the texts and their order."""
    return texts.digest() if isinstance(texts, ComputedTexts) else StringArray.of(texts).joined()
