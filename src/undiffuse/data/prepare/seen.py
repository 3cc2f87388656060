"""Which hashes have been seen, and where first: 16 bytes each and at most 12 for finding them again.

A dictionary of Python's would take about 150.
"""

from __future__ import annotations

from array import array

from undiffuse.data.dataset import HASH_BYTES

_EMPTY = -1
_SMALLEST = 1 << 10


class SeenHashes:
    """Hashes of 16 bytes in the order in which they were added, each once or more.

    Args:
        expected: room for so many is made at once; a table that grows leaves holes behind that cost as much again.
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
        """The number of the first hash that was equal, counted from 0; ``None`` if there is none."""
        number = self._slots[self._slot(value)]
        return None if number == _EMPTY else number

    def add(self, value: bytes) -> None:
        """One more; an equal one that was added before stays the first."""
        if (self._count + 1) * 3 > len(self._slots) * 2:
            self._grow()
        slot = self._slot(value)
        if self._slots[slot] == _EMPTY:
            self._slots[slot] = self._count
        self._hashes[self._count * HASH_BYTES : (self._count + 1) * HASH_BYTES] = value
        self._count += 1

    def at(self, number: int) -> bytes:
        """The hash that was added as this one."""
        return bytes(self._hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES])

    def _slot(self, value: bytes) -> int:
        """Where the hash is, or the empty place where it belongs."""
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
