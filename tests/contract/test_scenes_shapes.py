"""Coverage of the shapes of scenes: areas, centroids and boxes by geometry, and sub-pixel positions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from undiffuse.annotators.scenes.shapes import INSIDE, STEPS, coverages
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, BACKGROUND, COLOURS

SIDE, WINDOW = 24.0, 26
_TIP = 1 / math.sin(2 * math.pi / 5)
#: Area, and height of the centroid below the centre of the box, on the square [-1, 1]^2.
GEOMETRY = {
    "circle": (math.pi, 0.0),
    "square": (4.0, 0.0),
    "triangle": (2.0, 1 / 3),
    "ring": (math.pi * (1 - 0.5**2), 0.0),
    "star": (5 * _TIP**2 * 0.45 * math.sin(math.pi / 5), _TIP * (1 - math.cos(math.pi / 5)) / 2),
}


@pytest.mark.parametrize("shape", sorted(GEOMETRY))
def test_shapes_have_the_areas_of_their_formulas(shape: str) -> None:
    area, below = GEOMETRY[shape]
    mask = coverages(shape, SIDE, WINDOW)[0, 0].astype(np.float64)
    assert mask.sum() == pytest.approx(area * (SIDE / 2) ** 2, rel=0.01)
    pixels = np.arange(WINDOW) + 0.5
    x, y = (mask.sum(axis) @ pixels / mask.sum() for axis in (0, 1))
    assert x == pytest.approx(SIDE / 2, abs=0.05)
    assert y == pytest.approx(SIDE / 2 * (1 + below), abs=0.05)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_shapes_fill_their_box_and_nothing_else(shape: str) -> None:
    for side in (7.0, 12.5):
        masks = coverages(shape, side, 14)
        assert masks.shape == (STEPS, STEPS, 14, 14) and masks.min() >= 0 and masks.max() <= 1
        assert np.ptp(masks.sum((2, 3))) < 1e-3  # the area does not depend on the position
        rows, columns = (np.flatnonzero(masks[0, 0].sum(axis)) for axis in (1, 0))
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert extent == math.ceil(side)
        moved = masks[2, 1]
        assert np.flatnonzero(moved.sum(1)).max() <= math.ceil(side + 2 / STEPS) - 1
        total = masks[0, 0].sum()
        pixels = np.arange(14)
        assert moved.sum(1) @ pixels / total - masks[0, 0].sum(1) @ pixels / total == pytest.approx(2 / STEPS, abs=0.06)
        assert moved.sum(0) @ pixels / total - masks[0, 0].sum(0) @ pixels / total == pytest.approx(1 / STEPS, abs=0.06)


def test_every_shape_differs_from_every_other_at_the_smallest_size() -> None:
    masks = [coverages(shape, 7.0, 8)[0, 0].ravel() for shape in ALL_SHAPES]
    assert set(INSIDE) == set(ALL_SHAPES)
    for row, one in enumerate(masks):
        for other in masks[:row]:
            common = one @ other
            assert common / (one @ one + other @ other - common) < 0.95


def test_colours_differ_from_each_other_and_from_the_background() -> None:
    steps = np.array(list(COLOURS.values()), dtype=float) - np.array(BACKGROUND)
    units = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(units @ units.T, -1, 1)))
    assert angles[~np.eye(len(steps), dtype=bool)].min() > 15 and np.linalg.norm(steps, axis=1).min() > 150
