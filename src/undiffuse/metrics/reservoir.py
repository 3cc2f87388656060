"""A bounded, uniform sample of the rows of a stream, independent of how the stream is split into batches.

Every row has a number, unique in its set. A fixed hash of the number orders the rows at random, and a reservoir keeps
the ``capacity`` rows with the lowest hashes ("bottom-k sampling", Cohen & Kaplan 2007). The lowest rows of two
reservoirs are the lowest of both streams together, so the result does not depend on batches, parts and their order, and
there is no generator state. The hash is SplitMix64 (Steele, Lea & Flood 2014), a bijection of 64 bits, so there are no
ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.errors import UsageError


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


_GAMMA, _MIX_1, _MIX_2 = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix64(numbers: Tensor) -> Tensor:
    """The SplitMix64 hash (N,) of int64 ``numbers`` (N,), elementwise; int64 values represent 64-bit words.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z = numbers + _GAMMA  # int64 wraps around, as the hash requires
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's shift is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def check_numbers(numbers: Tensor, count: int) -> Tensor:
    """``numbers`` on the CPU, if they are ``count`` unique int64 numbers, one per row.

    Raises:
        UsageError: another shape or dtype, or a repeated number.
    """
    if numbers.shape != (count,) or numbers.dtype != torch.int64:
        raise UsageError(
            f"numbers must be int64 of shape ({count},), one per row, got {numbers.dtype} of {tuple(numbers.shape)}"
        )
    numbers = numbers.detach().cpu()
    _check_unique(numbers.sort().values)
    return numbers


def _check_unique(ascending: Tensor) -> None:
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if len(repeated):
        raise UsageError(
            f"numbers must be unique in a set, got {int(repeated[0])} twice; "
            "number the images of all batches and parts in one series"
        )


class ReservoirSample:
    """At most ``capacity`` rows of a stream: all of them while they fit, then a uniform sample without replacement.

    Args:
        capacity: maximum number of rows, at least 1.
    Example:
        >>> bank = ReservoirSample(2)
        >>> bank.update(torch.arange(5).float()[:, None], torch.arange(5))
        >>> bank.seen, len(bank), len(bank.rows)
        (5, 2, 2)
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise UsageError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._numbers = torch.zeros(0, dtype=torch.int64)
        self._keys = torch.zeros(0, dtype=torch.int64)
        self._store: Tensor | None = None  # the rows, in order of arrival, with spare capacity to grow into

    def __len__(self) -> int:
        """Rows held, at most ``capacity``."""
        return len(self._numbers)

    @property
    def complete(self) -> bool:
        """Whether all rows of the stream are held."""
        return self.seen == len(self)

    @property
    def numbers(self) -> Tensor:
        """Numbers (K,) of the rows held, ascending."""
        return self._numbers.sort().values

    @property
    def rows(self) -> Tensor:
        """The rows held (K, ...), in order of their numbers: a copy."""
        if self._store is None:
            return torch.zeros(0, 0)
        return self._store[self._numbers.argsort()]

    def update(self, rows: Tensor, numbers: Tensor) -> None:
        """Add ``rows`` (N, ...) with their ``numbers`` (N,); N may be 0.

        Raises:
            UsageError: rows of another shape or dtype than before, or a number that is held already.
        """
        self._check_rows(rows)
        numbers = check_numbers(numbers, len(rows))
        self._absorb(rows.detach().cpu(), numbers)
        self.seen += len(rows)

    def merge(self, other: ReservoirSample) -> ReservoirSample:
        """The reservoir of both streams; neither operand changes.

        Raises:
            UsageError: different capacities or rows, or numbers that both hold.
        """
        if other.capacity != self.capacity:
            raise UsageError(f"cannot merge reservoirs of capacity {self.capacity} and {other.capacity}")
        merged = ReservoirSample(self.capacity)
        for part in (self, other):
            if part._store is not None:
                merged._check_rows(part._store)
                merged._absorb(part._store[: len(part)], part._numbers)
        merged.seen = self.seen + other.seen
        return merged

    def reduced(self, capacity: int) -> ReservoirSample:
        """The reservoir with a smaller ``capacity`` of the same stream; samples are nested."""
        if not 1 <= capacity <= self.capacity:
            raise UsageError(
                f"a reservoir of {self.capacity} can be reduced to 1..{self.capacity} rows, got {capacity}"
            )
        smaller = ReservoirSample(capacity)
        if self._store is not None:
            smaller.update(self._store[: len(self)], self._numbers)
        smaller.seen = self.seen
        return smaller

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, see ``from_tensors``."""
        counts = torch.tensor([self.capacity, self.seen])
        held = {} if self._store is None else {"rows": self.rows}
        return {"counts": counts, "numbers": self.numbers, **held}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ReservoirSample:
        """The reservoir from the output of ``tensors()``."""
        reservoir = cls(int(tensors["counts"][0]))
        if "rows" in tensors:
            reservoir.update(tensors["rows"], tensors["numbers"])
        reservoir.seen = int(tensors["counts"][1])
        return reservoir

    def _check_rows(self, rows: Tensor) -> None:
        if rows.ndim < 1:
            raise UsageError("rows must have shape (N, ...), got a single number")
        store = self._store
        if store is not None and (rows.shape[1:] != store.shape[1:] or rows.dtype != store.dtype):
            raise UsageError(
                f"all rows of a set must have one shape and dtype: {tuple(store.shape[1:])} of {store.dtype} before, "
                f"now {tuple(rows.shape[1:])} of {rows.dtype}"
            )

    def _absorb(self, rows: Tensor, numbers: Tensor) -> None:
        """Keep the lowest keys of old and new rows; new rows overwrite the rows that they replace."""
        self._grow(rows, len(self) + len(numbers))
        keys = splitmix64(numbers)
        if len(self) == self.capacity:
            low = keys <= self._keys.max()
            rows, numbers, keys = rows[low], numbers[low], keys[low]
        if len(numbers) == 0:
            return
        all_numbers = torch.cat([self._numbers, numbers])
        _check_unique(all_numbers.sort().values)
        order = torch.cat([self._keys, keys]).argsort()
        kept, dropped = order[: self.capacity], order[self.capacity :]
        self._place(rows, numbers, keys, kept[kept >= len(self)] - len(self), dropped[dropped < len(self)])

    def _place(self, rows: Tensor, numbers: Tensor, keys: Tensor, entering: Tensor, freed: Tensor) -> None:
        assert self._store is not None
        added = torch.arange(len(self), len(self) + len(entering) - len(freed))
        places = torch.cat([freed, added])
        self._numbers = torch.cat([self._numbers, self._numbers.new_zeros(len(added))])
        self._keys = torch.cat([self._keys, self._keys.new_zeros(len(added))])
        self._numbers[places], self._keys[places] = numbers[entering], keys[entering]
        self._store[places] = rows[entering]

    def _grow(self, rows: Tensor, needed: int) -> None:
        """Allocate space for ``needed`` rows, at most the capacity, doubling it to limit copies for long streams."""
        if self._store is None:
            self._store = rows.new_empty(0, *rows.shape[1:])
        needed = min(needed, self.capacity)
        if needed > len(self._store):
            size = min(max(needed, 2 * len(self._store)), self.capacity)
            grown = rows.new_empty(size, *rows.shape[1:])
            grown[: len(self)] = self._store[: len(self)]
            self._store = grown
