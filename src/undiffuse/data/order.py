"""Random-access shuffle: the item at any position of any epoch, computed without storing the permutation.

In each epoch, the N items are permuted by a Feistel network on pairs (l, r), 0 <= l < a, 0 <= r < b, with a the
smallest even number >= sqrt(N) and b = ceil(N / a): ``index = l b + r``. Round i of ``NUM_ROUNDS`` adds to one half a
function of the other half, which is invertible for any such function:

    l <- l + F_i(r)  mod a        for even i
    r <- r + F_i(l)  mod b        for odd i

A result outside 0..N-1 is permuted again until it is inside ("cycle walking"), so that the result is a permutation of
0..N-1. F_i(v) = floor(u m / 2^32), where m is a or b and u the upper half of mix(k_i + v), mix being the finalizer of
SplitMix64; the keys are k_i = mix(s + (i+1) g), s = mix(mix(seed + g) + mix(epoch + g)), modulo 2^64.

Source: Luby & Rackoff 1988 (the network); Black & Rogaway 2002, "Ciphers with arbitrary finite domains" (unequal
halves, cycle walking); Steele, Lea & Flood 2014 (SplitMix64).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

#: With 16 rounds the permutations of 8 items are not uniform; with 20 no deviation is found (see the tests).
NUM_ROUNDS = 24
_BLOCK = 4096  # positions computed at once: a single one costs as much as hundreds
_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_HALF = np.uint64(32)


def shuffled(positions: npt.ArrayLike, num_items: int, seed: int) -> Indices:
    """Items at these positions of the infinite stream: position p is item p mod N of epoch floor(p / N).

    Args:
        positions: (B,) non-negative integers.
        num_items: N, at least 1 and below 2**62.
        seed: in [0, 2**64).

    Returns:
        (B,) in 0..N-1; the N positions of each epoch contain every item once.
    """
    epochs, places = np.divmod(np.asarray(positions, dtype=np.int64), num_items)
    distinct, rows = np.unique(epochs, return_inverse=True)
    keys = _round_keys(distinct.astype(np.uint64), seed)
    return _permute(places.astype(np.uint64), keys[:, rows.reshape(-1)] if len(distinct) > 1 else keys, num_items)


class Stream:
    """One rank's part of the infinite stream of shuffled epochs.

    Args:
        num_items: number of items N.
        seed: seed of the shuffle.
        rank, num_ranks: rank of this process and number of processes.
    """

    def __init__(self, num_items: int, seed: int, rank: int = 0, num_ranks: int = 1) -> None:
        self._num_items, self._seed, self._rank, self._num_ranks = num_items, seed, rank, num_ranks
        self._block: tuple[int, Indices] = (-1, np.empty(0, dtype=np.int64))

    def rows(self, start: int, count: int) -> Indices:
        """Items at this rank's part of positions start .. start+count-1."""
        first = start + self._rank * count // self._num_ranks
        end = start + (self._rank + 1) * count // self._num_ranks
        parts = [
            self._block_at(number)[max(first - number * _BLOCK, 0) : end - number * _BLOCK]
            for number in range(first // _BLOCK, -(-end // _BLOCK))
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _block_at(self, number: int) -> Indices:
        if self._block[0] != number:
            positions = np.arange(number * _BLOCK, (number + 1) * _BLOCK)
            self._block = (number, shuffled(positions, self._num_items, self._seed))
        return self._block[1]


def epoch_order(num_items: int, seed: int, epoch: int) -> Indices:
    """(N,) permutation of one epoch."""
    return shuffled(np.arange(num_items) + epoch * num_items, num_items, seed)


def _permute(values: Words, keys: Words, num_items: int) -> Indices:
    """Permute ``values`` (B,) below N by the network with ``keys`` (R, B) or (R, 1), cycle-walking until below N."""
    a, b = _halves(num_items)
    result = _network(values, keys, a, b)
    outside = np.flatnonzero(result >= num_items)
    while outside.size:
        result[outside] = _network(result[outside], keys[:, outside] if keys.shape[1] > 1 else keys, a, b)
        outside = outside[result[outside] >= num_items]
    return result.astype(np.int64)


def _halves(num_items: int) -> tuple[int, int]:
    """Sizes a and b of the two halves; a is even, so that odd permutations occur as well as even ones."""
    a = math.isqrt(num_items - 1) + 1
    a += a % 2
    return a, -(-num_items // a)


def _network(values: Words, keys: Words, a: int, b: int) -> Words:
    left, right = np.divmod(values, np.uint64(b))
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = _add_mod(left, mix(right + key), a)
        else:
            right = _add_mod(right, mix(left + key), b)
    return np.asarray(left * np.uint64(b) + right)


def _add_mod(half: Words, word: Words, modulus: int) -> Words:
    total = half + ((word >> _HALF) * np.uint64(modulus) >> _HALF)
    return np.where(total >= modulus, total - np.uint64(modulus), total)


def _round_keys(epochs: Words, seed: int) -> Words:
    """(R, E) uint64 keys of the rounds for each epoch."""
    seeded = mix(np.array([(seed + _GAMMA) & _MASK], dtype=np.uint64))
    state = mix(seeded + mix(epochs + np.uint64(_GAMMA)))
    steps = np.array([(number + 1) * _GAMMA & _MASK for number in range(NUM_ROUNDS)], dtype=np.uint64)
    return mix(state[None, :] + steps[:, None])


def mix(words: Words) -> Words:
    """Finalizer of SplitMix64, a permutation of the 64-bit words.

    Args:
        words: uint64, any shape.

    Source: Steele, Lea & Flood 2014.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
