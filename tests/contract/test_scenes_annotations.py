"""Exact annotations of scenes agree with the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from undiffuse.annotators.scenes.outlines import outline
from undiffuse.annotators.scenes.reading import read_scene
from undiffuse.annotators.scenes.shapes import INSIDE
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, BACKGROUND, COLOURS, SHAPES
from undiffuse.data import ScenesConfig, load_dataset
from undiffuse.data.sources.scenes.annotations import annotate

COLOUR_TABLE = np.array(list(COLOURS.values()))


@pytest.mark.parametrize(
    "options", [{}, {"size": 16, "sizes": False, "objects": 2, "shapes": 3}, {"size": 64, "digits": True}]
)
def test_annotations_agree_with_the_pixels(options: dict[str, Any]) -> None:
    config, rows = ScenesConfig(**options), np.array([5, 0, 17, *range(100, 140)])
    images = load_dataset(config).items(rows).astype(int)
    found = annotate(config, rows)
    assert found.segmentation.shape == (len(rows), config.size, config.size)
    assert np.array_equal(found.present.sum(1), np.maximum(found.scenes.count, 0).sum(1))
    off = np.abs(images - np.array(BACKGROUND)[:, None, None]).max(1)
    assert (off[found.segmentation > 0] > 60).all() and (off[found.segmentation == 0] < 125).all()
    for row, number in zip(*np.nonzero(found.present), strict=True):
        mask = found.segmentation[row] == number + 1
        y, x = np.nonzero(mask)
        left, top, right, bottom = found.boxes[row, number]
        assert left - 0.5 <= x.min() and x.max() + 1 <= right + 0.5 and mask.sum() >= 6
        assert top - 0.5 <= y.min() and y.max() + 1 <= bottom + 0.5
        assert top + (bottom - top) / 4 >= y.min() and bottom - (bottom - top) / 4 <= y.max() + 1
        brightest = images[row][:, mask].T[off[row][mask].argmax()]
        assert np.abs(brightest - COLOUR_TABLE[found.scenes.colour[row, number // 3]]).max() <= 90
    edges, depth = found.edges, found.depth
    assert not (edges & (found.segmentation == 0)).any() and edges.any((1, 2)).all()
    assert np.array_equal(depth * 9, found.segmentation) and (edges.sum((1, 2)) < (depth > 0).sum((1, 2))).any()
    for row in range(len(rows)):
        lines = found.lines(row)
        assert lines.shape[1] == 4 and lines.min() >= -0.2 and lines.max() <= config.size + 0.2


def test_the_boxes_are_those_that_the_checker_finds() -> None:
    config, rows = ScenesConfig(), np.arange(40)
    found = annotate(config, rows)
    for row, image in enumerate(load_dataset(config).items(rows)):
        boxes = {tuple(np.round(thing.box, 2)) for thing in read_scene(image, config.vocabulary)}
        exact = {tuple(box) for box in found.boxes[row][found.present[row]]}
        nearest = [min(max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in exact) for one in boxes]
        assert len(boxes) == len(exact) and max(nearest) <= 0.5


def test_edges_surround_each_thing() -> None:
    found = annotate(ScenesConfig(shapes=2, held_out_pairs=0), np.arange(200))
    is_square = np.repeat(found.scenes.shape == 1, 3, axis=1)
    whole = (found.boxes % 1 == 0).all(2) & found.present & is_square
    assert whole.sum() > 3
    for row, number in zip(*np.nonzero(whole), strict=True):
        mask = found.segmentation[row] == number + 1
        height, width = (np.flatnonzero(mask.any(axis)).size for axis in (1, 0))
        assert mask.sum() == height * width  # a full rectangle, whose border has one pixel
        assert (found.edges[row] & mask).sum() == 2 * (height + width) - 4


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_where_the_inside_ends(shape: str) -> None:
    segments = outline(shape)
    middle, step = (segments[:, :2] + segments[:, 2:]) / 2, segments[:, 2:] - segments[:, :2]
    normal = np.stack([step[:, 1], -step[:, 0]], 1) / np.linalg.norm(step, axis=1, keepdims=True) * 0.02
    sides = [INSIDE[shape](*(middle + sign * normal).T) for sign in (-1, 1)]
    assert (sides[0] != sides[1]).all()


def test_outlines_of_digits_are_within_their_strokes() -> None:
    for shape in set(ALL_SHAPES) - set(SHAPES):
        for segment in outline(shape):
            at = (segment[:2] + segment[2:]) / 2
            assert INSIDE[shape](at[:1][None], at[1:][:, None]).all()
