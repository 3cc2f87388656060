"""Many short texts (names, captions) in one buffer: a million of them cost their bytes and sixteen more each.

As Python strings they would cost about sixty bytes each beside their own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Texts(Sequence[str]):
    """A sequence of texts that may only grow; ``select`` shares the buffer.

    Args:
        texts: what to hold. Names of files that are no valid UTF-8 come back as they were.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._buffer, self._starts, self._ends = bytearray(), array("q"), array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add one text; not to a selection, which shares its buffer."""
        self._starts.append(len(self._buffer))
        self._buffer += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._buffer))

    @staticmethod
    def of(texts: Sequence[str]) -> Texts:
        """The same texts, held compactly."""
        return texts if isinstance(texts, Texts) else Texts(texts)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return self._buffer[self._starts[index] : self._ends[index]].decode("utf-8", "surrogateescape")

    def select(self, rows: Rows) -> Texts:
        """The texts at these positions, in this order; the buffer is not copied."""
        chosen = Texts()
        chosen._buffer = self._buffer
        chosen._starts = _array(np.frombuffer(self._starts, dtype=np.int64)[rows])
        chosen._ends = _array(np.frombuffer(self._ends, dtype=np.int64)[rows])
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


def _array(values: Rows) -> array[int]:
    """The same numbers, of which Python reads one at a time faster than of numpy's."""
    return array("q", values.tobytes())
