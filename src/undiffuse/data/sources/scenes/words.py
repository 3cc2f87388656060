"""The words of scenes: a function of the options and the scene's number, for any numbers at once.

Random numbers are counter-based: draw k of scene i is a hash of (seed, i, k) by the finalizer of SplitMix64, so that
any scenes are drawn in any order without stored state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, COLOURS, Pair
from undiffuse.data.config.scenes import ScenesConfig
from undiffuse.data.order import mix
from undiffuse.data.sources.scenes.plans import options_of, possible_choices

Uniform = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

_GAMMA, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
#: Numbers of the draws; those from ``LAYOUT`` on place the things.
_GROUPS, _OPTIONS, _PAIRS, _RELATIONS, _UNSEEN = 0, 1, (2, 3, 4), (5, 6), 7
LAYOUT = 16
#: Stream of the hashes of captions, equal for all seeds.
_CAPTIONS = 0x5C3E5


def uniform(seed: int, numbers: Numbers, draws: Sequence[int]) -> Uniform:
    """Random numbers in [0, 1).

    Args:
        seed: in [0, 2**64).
        numbers: (B,) numbers of scenes.
        draws: K numbers of draws.

    Returns:
        (B, K), each a function of (seed, number, draw) alone.
    """
    leading = hashed(seed, numbers, draws) >> np.uint64(11)
    return leading.astype(np.float64) * 2.0**-53


def hashed(seed: int, numbers: Numbers, draws: Sequence[int]) -> Words:
    """(B, K) uint64 hashes of (seed, number, draw); arguments as of ``uniform``."""
    start = mix(np.array([seed], dtype=np.uint64) + _GAMMA)
    state = mix(start + (numbers.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    steps = (np.asarray(draws, dtype=np.uint64) + np.uint64(1)) * _STEP
    return mix(state[:, None] + steps[None, :])


def caption_hashes(caption_numbers: Numbers) -> npt.NDArray[np.uint8]:
    """(B, 16) hashes of captions, which decide the split.

    Args:
        caption_numbers: (B,) from ``SceneArrays.caption_numbers``.
    """
    return as_bytes(hashed(_CAPTIONS, caption_numbers, (0, 1)))


def as_bytes(words: Words) -> npt.NDArray[np.uint8]:
    """(B, 16) uint8 from (B, 2) uint64, most significant byte first."""
    return np.ascontiguousarray(words.astype(">u8")).view(np.uint8).reshape(-1, 16)


def draw_scenes(config: ScenesConfig, numbers: Numbers) -> SceneArrays:
    """The words of the scenes with these numbers.

    Args:
        config: options of the set.
        numbers: (B,) numbers of scenes, from 0.
    """
    three = (
        uniform(config.seed, numbers, (_GROUPS,))[:, 0] >= 0.5 if config.objects == 3 else np.zeros(len(numbers), bool)
    )
    counts, sizes = _options(config, numbers, three)
    colours, shapes = _pairs(config, numbers, three)
    absent = np.zeros((len(numbers), 3), dtype=bool)
    absent[:, 2] = ~three
    count, size, colour, shape = (np.where(absent, -1, part) for part in (counts, sizes, colours, shapes))
    return SceneArrays(count, size, colour, shape, _relations(config, numbers, three))


def _options(config: ScenesConfig, numbers: Numbers, three: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Counts and sizes (B, 3) of the groups, uniform over all combinations that fit into the image."""
    u = uniform(config.seed, numbers, (_OPTIONS,))[:, 0]
    option = np.zeros((len(numbers), 3), dtype=np.int64)
    for rows, num in ((~three, 2), (three, 3)):
        possible = np.array(possible_choices(config.size, config.sizes, config.counts, num), dtype=np.int64)
        option[rows, :num] = possible[(u[rows] * len(possible)).astype(np.int64)]
    table = np.array(options_of(config.sizes, config.counts), dtype=np.int64)
    return table[option, 0], table[option, 1]


def _relations(config: ScenesConfig, numbers: Numbers, three: npt.NDArray[np.bool_]) -> Numbers:
    u = uniform(config.seed, numbers, _RELATIONS)
    first = (4 * u[:, 0]).astype(np.int64)
    other_axis = np.where(first < 2, 2, 0) + (2 * u[:, 1]).astype(np.int64)
    return np.stack([first, np.where(three, other_axis, -1)], axis=1)


def _pairs(config: ScenesConfig, numbers: Numbers, three: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Colours and shapes (B, 3); the pairs of a scene are distinct."""
    u = uniform(config.seed, numbers, _PAIRS)
    if config.pairs == "seen":
        table = _table(config.seen_pairs)
        chosen = _distinct((u[:, 0] * len(table)).astype(np.int64), u, len(table))
    else:
        pairs = config.vocabulary.pairs
        unseen = np.array([row for row, pair in enumerate(pairs) if pair in config.unseen_pairs])
        table = _table(pairs)
        chosen = _distinct(unseen[(u[:, 0] * len(unseen)).astype(np.int64)], u, len(table))
        place = (uniform(config.seed, numbers, (_UNSEEN,))[:, 0] * np.where(three, 3, 2)).astype(np.int64)
        order = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0]])[place]  # where the held-out pair is
        chosen = np.take_along_axis(chosen, order, axis=1)
    return table[chosen, 0], table[chosen, 1]


def _distinct(first: Numbers, u: Uniform, total: int) -> Numbers:
    """(B, 3) numbers below ``total``: the first is given, the others are uniform over the remaining ones."""
    second = (u[:, 1] * (total - 1)).astype(np.int64)
    second += second >= first
    third = (u[:, 2] * max(total - 2, 1)).astype(np.int64)
    third += third >= np.minimum(first, second)
    third += third >= np.maximum(first, second)
    return np.stack([first, second, np.minimum(third, total - 1)], axis=1)


def _table(pairs: Sequence[Pair]) -> Numbers:
    colours = tuple(COLOURS)
    return np.array([(colours.index(colour), ALL_SHAPES.index(shape)) for colour, shape in pairs], dtype=np.int64)
