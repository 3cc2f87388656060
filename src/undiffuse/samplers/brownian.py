"""A Brownian path for each seed, in SNR = alpha^2 / sigma^2, that every time grid shares.

W(SNR) is fixed by the seed: a coarse grid and a fine one read the same path, so the samples of an SDE solver approach
each other as steps get shorter, picture by picture. The path lives on nodes

    SNR = 0   and   SNR = exp(-32 + j 2^-12),  j = 0 ... 2^18.

The ends W(e^-32) and W(e^32) are drawn outright; every node between them is drawn from the Brownian bridge of its two
parents in a binary tree over j, by a Philox generator keyed with the seed and counted by j. A question descends the
tree to two nodes, at most 36 draws of the picture's size, fewer by what the two ways share; nothing is stored.

Rules at the edges: an SNR is moved to the nearest node (a relative change below 2e-4; a finer tree costs more draws and
tells no two pictures apart), below e^-32 to 0 and above e^32 to e^32 (a noise of 1e-7); two SNRs that meet on one node
count as a step of one node. The increment is divided by the
square root of the distance between the nodes themselves, so it is standard normal always.

Source: P. Levy's construction; Li et al. 2020, "Scalable Gradients for Stochastic Differential Equations",
arXiv:2001.01328, sec. 4, for the tree with seeded nodes.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

_KEY = 0x62726F776E69616E  # the path's own stream of the seed
_EDGE = 32  # log-SNRs from -32 to 32
_LEVELS = 18
_LAST = 1 << _LEVELS
_PER_UNIT = _LAST // (2 * _EDGE)  # nodes a unit of log-SNR
_ZERO = -1  # the node SNR = 0

Array: TypeAlias = npt.NDArray[np.float64]


def increment(seed: int, snr_t: float, snr_s: float, shape: tuple[int, ...]) -> Array:
    """(W(snr_s) - W(snr_t)) / sqrt(snr_s - snr_t) of the seed's path, for one row of ``shape``; standard normal.

    Args:
        seed: in [0, 2**64).
        snr_t: at least 0.
        snr_s: at least ``snr_t``; may be infinite.
        shape: of one sample.
    Raises:
        UsageError: SNRs that are negative, no numbers, or in the wrong order.
    """
    if not 0 <= snr_t <= snr_s:
        raise UsageError(f"a Brownian step needs 0 <= snr_t <= snr_s, got {snr_t} and {snr_s}")
    low, high = _two_nodes(snr_t, snr_s)
    nodes: dict[int, Array] = {}
    difference = _value(seed, high, shape, nodes) - _value(seed, low, shape, nodes)
    return difference / math.sqrt(_snr(high) - _snr(low))


def _two_nodes(snr_t: float, snr_s: float) -> tuple[int, int]:
    low, high = min(_node(snr_t), _LAST - 1), _node(snr_s)
    return low, max(high, low + 1)


def _node(snr: float) -> int:
    log_snr = math.log(snr) if snr > 0 else -math.inf
    return _ZERO if log_snr < -_EDGE else round((min(log_snr, _EDGE) + _EDGE) * _PER_UNIT)


def _snr(node: int) -> float:
    return 0.0 if node == _ZERO else math.exp(node / _PER_UNIT - _EDGE)


def _draw(seed: int, node: int, shape: tuple[int, ...]) -> Array:
    key = np.array([seed, _KEY], dtype=np.uint64)  # a list would pass seeds from 2**63 on through float64
    bits = np.random.Philox(key=key, counter=[0, node, 0, 0])
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32).astype(np.float64)


def _value(seed: int, node: int, shape: tuple[int, ...], nodes: dict[int, Array]) -> Array:
    """W at a node; ``nodes`` keeps what was passed on the way for the next question."""
    if node == _ZERO:
        return np.zeros(shape)
    if not nodes:
        nodes[0] = math.sqrt(_snr(0)) * _draw(seed, 0, shape)
        nodes[_LAST] = nodes[0] + math.sqrt(_snr(_LAST) - _snr(0)) * _draw(seed, _LAST, shape)
    low, high = 0, _LAST
    while node not in nodes:
        middle = (low + high) // 2
        if middle not in nodes:
            nodes[middle] = _between(low, middle, high, nodes) + _bridge_std(low, middle, high) * _draw(
                seed, middle, shape
            )
        low, high = (middle, high) if node > middle else (low, middle)
    return nodes[node]


def _between(low: int, middle: int, high: int, nodes: dict[int, Array]) -> Array:
    share = (_snr(middle) - _snr(low)) / (_snr(high) - _snr(low))
    return nodes[low] + share * (nodes[high] - nodes[low])


def _bridge_std(low: int, middle: int, high: int) -> float:
    before, after = _snr(middle) - _snr(low), _snr(high) - _snr(middle)
    return math.sqrt(before * after / (before + after))
