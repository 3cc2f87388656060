"""A Brownian path for each seed, in SNR = alpha^2 / sigma^2, shared by all time grids.

W(SNR) is a function of the seed: a coarse and a fine grid use the same path, so each sample of an SDE solver converges
as the steps get shorter. The path is defined at the nodes

    SNR = 0   and   SNR = exp(-32 + j 2^-12),  j = 0 ... 2^18.

The ends W(e^-32) and W(e^32) are drawn directly; every node between them is drawn from the Brownian bridge of its two
parents in a binary tree over j. A draw is a function of (seed, j): a query descends the tree to its two nodes with at
most 36 draws of the sample's size, fewer if the two paths share nodes, vectorised over samples; nothing is stored.

Rounding: an SNR is moved to the nearest node (a relative change below 2e-4; a finer tree costs more draws without a
visible difference), below e^-32 to 0 and above e^32 to e^32 (a noise of 1e-7); two SNRs at the same node count as a
step of one node. The increment is divided by the square root of the distance between the nodes, so it is always
standard normal.

Source: P. Levy's construction; Li et al. 2020, "Scalable Gradients for Stochastic Differential Equations",
arXiv:2001.01328, sec. 4, for the tree with seeded nodes; Steele et al. 2014, "Fast Splittable Pseudorandom Number
Generators", for the mixing function; Box & Muller 1958.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]  # float64, except the draws
Words: TypeAlias = npt.NDArray[np.uint64]
Nodes: TypeAlias = npt.NDArray[np.int64]

_STREAM = np.uint64(0x62726F776E69616E)  # separates the path from other uses of the seed
_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: a Weyl sequence as input of the mixing function
_EDGE = 32  # log-SNRs from -32 to 32
_LEVELS = 18
_LAST = 1 << _LEVELS
_PER_UNIT = _LAST // (2 * _EDGE)  # nodes per unit of log-SNR
_ZERO = -1  # the node SNR = 0
_CHUNK = 1 << 17  # elements in memory at a time


def increments(
    seeds: Sequence[int],
    snr_t: Sequence[float],
    snr_s: Sequence[float],
    shape: tuple[int, ...],
    streams: Sequence[int] | None = None,
) -> Array:
    """(W(snr_s) - W(snr_t)) / sqrt(snr_s - snr_t) of each seed's path, (B, *shape), standard normal.

    Args:
        seeds: B integers in [0, 2**64).
        snr_t: at least 0.
        snr_s: at least ``snr_t``; may be infinite.
        shape: shape of one sample.
        streams: one per sample, at least 0; a seed has one path per stream, by default stream 0.
    Raises:
        UsageError: SNRs that are negative, NaN, or in the wrong order.
    """
    pairs = [_node_pair(low, high) for low, high in zip(snr_t, snr_s, strict=True)]
    keys, size = np.array(seeds, dtype=np.uint64), math.prod(shape)
    keys = keys ^ _mix(np.array(streams if streams is not None else [0] * len(keys), dtype=np.uint64))  # _mix(0) = 0
    low, high = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    rows = max(1, _CHUNK // max(size, 1))
    chunks = [slice(start, start + rows) for start in range(0, len(keys), rows)]
    parts = [_increments(keys[chunk], low[chunk], high[chunk], size) for chunk in chunks]
    return np.concatenate([np.empty((0, size)), *parts]).reshape(len(keys), *shape)


def _node_pair(snr_t: float, snr_s: float) -> tuple[int, int]:
    if not 0 <= snr_t <= snr_s:
        raise UsageError(f"a Brownian step needs 0 <= snr_t <= snr_s, got {snr_t} and {snr_s}")
    low, high = min(_node(snr_t), _LAST - 1), _node(snr_s)
    return low, max(high, low + 1)


def _node(snr: float) -> int:
    log_snr = math.log(snr) if snr > 0 else -math.inf
    return _ZERO if log_snr < -_EDGE else round((min(log_snr, _EDGE) + _EDGE) * _PER_UNIT)


@functools.cache
def _snr() -> Array:
    """SNR of the nodes; the node SNR = 0 is the last entry, index -1."""
    log_snr = np.arange(_LAST + 1) / _PER_UNIT - _EDGE
    return np.concatenate([np.exp(log_snr), np.zeros(1)])


class _Interval(NamedTuple):
    """For each sample two adjacent nodes of a level of the tree, and the values of W at them."""

    left: Nodes
    right: Nodes
    w_left: Array
    w_right: Array


def _increments(seeds: Words, low: Nodes, high: Nodes, size: int) -> Array:
    """Increments of flattened samples: (B,) seeds and nodes to (B, size)."""
    shared = _descend(seeds, _root(seeds, size), np.maximum(low, 0), high)
    w_high = _value(_descend(seeds, shared, high, high), high)
    w_low = np.where(low[:, None] == _ZERO, 0.0, _value(_descend(seeds, shared, low, low), low))
    normalized: Array = (w_high - w_low) / np.sqrt(_snr()[high] - _snr()[low])[:, None]
    return normalized


def _root(seeds: Words, size: int) -> _Interval:
    left, right = np.zeros(len(seeds), dtype=np.int64), np.full(len(seeds), _LAST)
    w_left = math.sqrt(_snr()[0]) * _normals(seeds, left, size)
    w_right = w_left + math.sqrt(_snr()[_LAST] - _snr()[0]) * _normals(seeds, right, size)
    return _Interval(left, right, w_left, w_right)


def _descend(seeds: Words, interval: _Interval, a: Nodes, b: Nodes) -> _Interval:
    """Descend the tree along the common path to the nodes ``a`` <= ``b``, at most to their common node."""
    left, right, w_left, w_right = (
        interval.left.copy(),
        interval.right.copy(),
        interval.w_left.copy(),
        interval.w_right.copy(),
    )
    for _ in range(_LEVELS):
        middle = (left + right) // 2
        arrived = (a == b) & ((a == left) | (a == right))
        rows = np.flatnonzero((right - left > 1) & ~arrived & ((a <= middle) == (b <= middle)))
        if not len(rows):
            break
        w = _bridge(seeds[rows], _Interval(left[rows], right[rows], w_left[rows], w_right[rows]), middle[rows])
        is_left = b[rows] <= middle[rows]
        right[rows[is_left]], w_right[rows[is_left]] = middle[rows[is_left]], w[is_left]
        left[rows[~is_left]], w_left[rows[~is_left]] = middle[rows[~is_left]], w[~is_left]
    return _Interval(left, right, w_left, w_right)


def _value(interval: _Interval, node: Nodes) -> Array:
    return np.where((node == interval.left)[:, None], interval.w_left, interval.w_right)


def _bridge(seeds: Words, interval: _Interval, middle: Nodes) -> Array:
    """Draw W at the middle nodes from the Brownian bridge between both ends."""
    before = (_snr()[middle] - _snr()[interval.left])[:, None]
    after = (_snr()[interval.right] - _snr()[middle])[:, None]
    mean = interval.w_left + before / (before + after) * (interval.w_right - interval.w_left)
    w: Array = mean + np.sqrt(before * after / (before + after)) * _normals(seeds, middle, mean.shape[1])
    return w


def _normals(seeds: Words, nodes: Nodes, size: int) -> Array:
    """Standard normal (B, size) in float32, a function of (seed, node, element)."""
    start, half = _mix(_mix(seeds ^ _STREAM) + nodes.astype(np.uint64) * _STEP), (size + 1) // 2
    words = _mix(start[:, None] + np.arange(1, half + 1, dtype=np.uint64) * _STEP).view(np.uint32)
    radius, angle = words[:, 0::2].astype(np.float32), words[:, 1::2].astype(np.float32)
    radius = np.sqrt(np.float32(-2) * np.log((radius + np.float32(0.5)) * np.float32(2.0**-32)))
    angle *= np.float32(2 * math.pi * 2.0**-32)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :size]


def _mix(words: Words) -> Words:
    """SplitMix64's mixing function: every input bit affects every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
