"""Positions of the things of scenes, drawn at random among those in which the relations are unambiguous.

Two groups in a relation have bounding boxes that are disjoint along its axis, and the distance of their centres along
the axis exceeds that across it. All positions are multiples of 1/4 pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.arrays import Numbers, SceneArrays
from undiffuse.annotators.scenes.shapes import STEPS
from undiffuse.annotators.scenes.vocabulary import SIZES
from undiffuse.data.config.scenes import ScenesConfig
from undiffuse.data.sources.scenes.plans import COLUMN, MARGIN, arrangements, gap, group_distance
from undiffuse.data.sources.scenes.words import LAYOUT, Uniform, uniform

Plane = npt.NDArray[np.float64]

_SIDES, _ARRANGEMENT, _PLACES = LAYOUT, LAYOUT + 3, LAYOUT + 8
#: Largest change of a difference of distances by rounding four coordinates.
_ROUNDING = 2 / STEPS
_DRAWS, _MOST_ATTEMPTS = 8, 32


@dataclass(frozen=True)
class Layout:
    """Boxes of the things of B scenes.

    Args:
        corner: (B, 3, 3, 2) x and y of the upper left corner of each group's things, in pixels.
        side: (B, 3) side of each group's things, in pixels.
        present: (B, 3, 3) whether the group has the thing.
    """

    corner: Plane
    side: Plane
    present: npt.NDArray[np.bool_]


def lay_out(config: ScenesConfig, numbers: Numbers, scenes: SceneArrays) -> Layout:
    """Place the things of scenes.

    Args:
        config: options of the set.
        numbers: (B,) numbers of the scenes.
        scenes: their words.
    """
    side = _sides(config, numbers, scenes)
    first, directions = _arrangements(config, numbers, scenes)
    roles = np.stack([np.zeros_like(first), first, 3 - first], axis=1)  # group in each role
    count = np.maximum(np.take_along_axis(scenes.count, roles, 1), 0)
    long = count * np.take_along_axis(side, roles, 1) + (count - 1) * gap(config.size)
    short = np.take_along_axis(side, roles, 1)
    extent = np.stack([np.where(directions == COLUMN, short, long), np.where(directions == COLUMN, long, short)], 2)
    corner = _corners(config, numbers, extent * (count > 0)[..., None], count[:, 2] > 0)
    corner, vertical = _turned(config, scenes, first, corner, extent)
    back = np.argsort(roles, axis=1)
    corner = np.take_along_axis(corner, back[..., None], 1)
    along_y = np.take_along_axis((directions == COLUMN) ^ vertical[:, None], back, 1)
    return _things(config, scenes, corner, along_y, side)


def _sides(config: ScenesConfig, numbers: Numbers, scenes: SceneArrays) -> Plane:
    """(B, 3) sides; those of large things vary."""
    u = uniform(config.seed, numbers, range(_SIDES, _SIDES + 3))
    side = np.zeros_like(u)
    for number, name in enumerate((None, *SIZES)):
        if name in config.vocabulary.sides:
            choices = np.array(config.vocabulary.sides[name])
            side = np.where(scenes.size == number, choices[(u * len(choices)).astype(np.int64)], side)
    return side


def _arrangements(config: ScenesConfig, numbers: Numbers, scenes: SceneArrays) -> tuple[Numbers, Numbers]:
    """The group in the role of the first (B,), and the directions (B, 3) of subject, first and second."""
    u = uniform(config.seed, numbers, (_ARRANGEMENT,))[:, 0]
    keys = np.concatenate([scenes.count, scenes.size], axis=1)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    chosen = np.ones((len(numbers), 4), dtype=np.int64)
    for number, key in enumerate(distinct.tolist()):
        rows = np.flatnonzero(inverse.reshape(-1) == number)
        options = tuple((key[group], key[3 + group]) for group in range(3 if key[2] > 0 else 2))
        table = np.array(arrangements(config.size, options))
        chosen[rows] = table[(u[rows] * len(table)).astype(np.int64)]
    return chosen[:, 0], chosen[:, 1:]


def _corners(config: ScenesConfig, numbers: Numbers, extent: Plane, three: npt.NDArray[np.bool_]) -> Plane:
    """(B, 3, 2) upper left corners of subject, first and second; drawn again after the second can be placed."""
    corner = np.zeros_like(extent)
    left = np.arange(len(numbers))
    for attempt in range(_MOST_ATTEMPTS):
        draws = range(_PLACES + _DRAWS * attempt, _PLACES + _DRAWS * (attempt + 1))
        u = uniform(config.seed, numbers[left], draws)
        found, placed = _place(config.size, extent[left], three[left], u)
        corner[left[placed]] = found[placed]
        left = left[~placed]
        if not len(left):
            break
    assert not len(left), "every arrangement has many layouts"
    return np.round(corner * STEPS) / STEPS


def _place(size: int, extent: Plane, three: npt.NDArray[np.bool_], u: Uniform) -> tuple[Plane, npt.NDArray[np.bool_]]:
    """One attempt: corners (B, 3, 2), and whether the second group could be placed (B,)."""
    distance, tolerance = group_distance(size), size / 32 + _ROUNDING
    low, high = MARGIN, size - MARGIN
    (w, h), centre = (extent[..., 0], extent[..., 1]), np.zeros_like(extent)
    slack = high - low - w[:, 0] - w[:, 1] - distance
    before, after = np.sort(u[:, :2], axis=1).T
    centre[:, 0, 0] = low + before * slack + w[:, 0] / 2
    centre[:, 1, 0] = low + after * slack + w[:, 0] + distance + w[:, 1] / 2
    across = centre[:, 1, 0] - centre[:, 0, 0] - tolerance  # largest difference of their heights
    # the subject and the first are in a band, the second below it
    tallest = np.maximum(h[:, 0], h[:, 1])
    band = np.where(three, low + tallest + u[:, 2] * (high - low - tallest - distance - h[:, 2]), high)
    taller = np.where(h[:, 0] >= h[:, 1], 0, 1)
    rows, shorter = np.arange(len(u)), 1 - taller
    at = _between(low + tallest / 2, band - tallest / 2, u[:, 3])
    smaller = h[rows, shorter] / 2
    centre[rows, taller, 1] = at
    centre[rows, shorter, 1] = _between(
        np.maximum(low + smaller, at - across), np.minimum(band - smaller, at + across), u[:, 4]
    )
    centre[:, 2, 1] = _between(band + distance + h[:, 2] / 2, high - h[:, 2] / 2, u[:, 5])
    reach = centre[:, 2, 1] - centre[:, 0, 1] - tolerance
    start = np.maximum(low + w[:, 2] / 2, centre[:, 0, 0] - reach)
    end = np.minimum(high - w[:, 2] / 2, centre[:, 0, 0] + reach)
    centre[:, 2, 0] = _between(start, end, u[:, 6])
    return centre - extent / 2, ~three | (end >= start)


def _between(low: Plane, high: Plane, u: Plane) -> Plane:
    between: Plane = low + u * (high - low)
    return between


def _turned(
    config: ScenesConfig, scenes: SceneArrays, first: Numbers, corner: Plane, extent: Plane
) -> tuple[Plane, npt.NDArray[np.bool_]]:
    """Turn the frame so that the relations are the requested ones; returns whether the axes were exchanged too."""
    relation = np.take_along_axis(scenes.relation, np.stack([first - 1, 2 - first], 1), 1)
    flip = np.isin(relation, (1, 3))
    far = config.size - corner - extent
    corner = np.where(flip[:, None, :], far, corner)
    vertical = relation[:, 0] >= 2
    return np.where(vertical[:, None, None], corner[..., ::-1], corner), vertical


def _things(
    config: ScenesConfig, scenes: SceneArrays, corner: Plane, along_y: npt.NDArray[np.bool_], side: Plane
) -> Layout:
    step = (side + gap(config.size))[:, :, None] * np.arange(3)
    offset = np.stack([np.where(along_y[..., None], 0, step), np.where(along_y[..., None], step, 0)], axis=-1)
    present = np.arange(3) < scenes.count[..., None]
    return Layout(corner[:, :, None, :] + offset, side, present)
