"""Drawing of scenes: patches of coverage are blended into the background, thing by thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.annotators.scenes.shapes import STEPS, Floats, coverages
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, BACKGROUND, COLOURS, SIZES, Vocabulary
from undiffuse.data.sources.scenes.layout import Layout

_COLOURS = np.array(list(COLOURS.values()), dtype=np.float32)
_BACKGROUND = np.array(BACKGROUND, dtype=np.float32)
#: Pixels by which a window may extend beyond the image.
PAD = 2


@dataclass(frozen=True)
class Things:
    """At most one thing of each scene, and the pixels that it covers.

    Args:
        rows: (R,) numbers of the scenes within the batch.
        group: number of the group that the things are in.
        member: number of the thing within the group.
        y, x: (R, P) pixels of the windows, up to ``PAD`` beyond the image.
        coverage: (R, P, P) in [0, 1].
    """

    rows: Numbers
    group: int
    member: int
    y: Numbers
    x: Numbers
    coverage: Floats

    @property
    def at(self) -> tuple[Numbers, Numbers, Numbers]:
        """Index of the windows in an array (B, size + PAD, size + PAD, ...)."""
        return self.rows[:, None, None], self.y[:, :, None], self.x[:, None, :]


def render(vocabulary: Vocabulary, scenes: SceneArrays, layout: Layout) -> npt.NDArray[np.uint8]:
    """Images of scenes.

    Args:
        vocabulary: of the set.
        scenes: words of B scenes.
        layout: positions of their things.

    Returns:
        (B, 3, size, size) uint8.
    """
    side = vocabulary.size + PAD
    padded = np.empty((len(scenes), side, side, 3), dtype=np.float32)
    padded[:] = _BACKGROUND
    for part in things(vocabulary, scenes, layout):
        colour = _COLOURS[scenes.colour[part.rows, part.group]][:, None, None, :]
        below = padded[part.at]
        padded[part.at] = below + part.coverage[..., None] * (colour - below)
    image = padded[:, : vocabulary.size, : vocabulary.size]
    return np.ascontiguousarray((image + 0.5).astype(np.uint8).transpose(0, 3, 1, 2))


def things(vocabulary: Vocabulary, scenes: SceneArrays, layout: Layout) -> Iterator[Things]:
    """All things of scenes, in drawing order within each scene.

    Args:
        vocabulary: of the set.
        scenes: words of B scenes.
        layout: positions of their things.
    """
    for group in range(3):
        for member in range(3):
            for size in vocabulary.sides:
                number = 0 if size is None else 1 + SIZES.index(size)
                rows = np.flatnonzero(layout.present[:, group, member] & (scenes.size[:, group] == number))
                if len(rows):
                    yield _things(vocabulary, scenes, layout, rows, group, member, size)


def _things(
    vocabulary: Vocabulary,
    scenes: SceneArrays,
    layout: Layout,
    rows: Numbers,
    group: int,
    member: int,
    size: str | None,
) -> Things:
    table, sides = atlas(vocabulary, size)
    whole, part = np.divmod(np.round(layout.corner[rows, group, member] * STEPS).astype(np.int64), STEPS)
    shape = _positions(vocabulary)[scenes.shape[rows, group]]
    coverage = table[shape, np.searchsorted(sides, layout.side[rows, group]), part[:, 1], part[:, 0]]
    pixels = whole[:, :, None] + np.arange(table.shape[-1])
    return Things(rows, group, member, pixels[:, 1], pixels[:, 0], coverage)


@lru_cache(maxsize=32)
def _positions(vocabulary: Vocabulary) -> Numbers:
    """Positions in the vocabulary of all shapes, -1 for those that it lacks."""
    names = vocabulary.shapes
    return np.array([names.index(shape) if shape in names else -1 for shape in ALL_SHAPES])


@lru_cache(maxsize=32)
def atlas(vocabulary: Vocabulary, size: str | None) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Coverage of all shapes of one size.

    Returns:
        (shapes, sides, STEPS, STEPS, window, window), and the sides in increasing order.
    """
    sides = sorted(set(vocabulary.sides[size]))
    window = ceil(sides[-1]) + 1
    table = np.array([[coverages(shape, side, window) for side in sides] for shape in vocabulary.shapes])
    return table, np.array(sides)
