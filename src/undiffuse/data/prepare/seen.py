"""Hash table of seen hashes and their first positions: 16 bytes per hash and at most 12 for the index.

A Python dictionary would take about 150 bytes.
"""

from __future__ import annotations

from array import array

from undiffuse.data.dataset import HASH_BYTES

_EMPTY = -1
_SMALLEST = 1 << 10


class SeenHashes:
    """16-byte hashes in insertion order, with repetitions.

    Args:
        expected: number of hashes to allocate memory for; growing the table would fragment memory and double its use.
    """

    def __init__(self, expected: int = 0) -> None:
        self._hashes, self._count = bytearray(HASH_BYTES * expected), 0
        num_slots = _SMALLEST
        while 3 * expected > 2 * num_slots:
            num_slots *= 2
        self._slots = array("i", [_EMPTY]) * num_slots

    def __len__(self) -> int:
        return self._count

    def first(self, value: bytes) -> int | None:
        """The position of the first equal hash, from 0; ``None`` if there is none."""
        number = self._slots[self._slot(value)]
        return None if number == _EMPTY else number

    def add(self, value: bytes) -> None:
        """Append a hash; an equal one added before stays the first."""
        if (self._count + 1) * 3 > len(self._slots) * 2:
            self._grow()
        slot = self._slot(value)
        if self._slots[slot] == _EMPTY:
            self._slots[slot] = self._count
        self._hashes[self._count * HASH_BYTES : (self._count + 1) * HASH_BYTES] = value
        self._count += 1

    def at(self, number: int) -> bytes:
        """The hash at a position."""
        return bytes(self._hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES])

    def _slot(self, value: bytes) -> int:
        """The slot of the hash, or the empty slot where it belongs."""
        mask = len(self._slots) - 1
        slot = int.from_bytes(value[:8], "little") & mask
        while (number := self._slots[slot]) != _EMPTY and self.at(number) != value:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._slots = array("i", [_EMPTY]) * (2 * len(self._slots))
        for number in range(self._count):
            slot = self._slot(self.at(number))
            if self._slots[slot] == _EMPTY:
                self._slots[slot] = number
