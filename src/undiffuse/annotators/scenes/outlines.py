"""Outlines of the shapes of scenes as line segments on the square [-1, 1]^2, x to the right and y downwards."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.shapes import RING_HOLE, STAR_INNER, STAR_RADIUS, stroke_lines

Segments = npt.NDArray[np.float64]

_CORNERS = 32  # of the polygon for a circle


@cache
def outline(shape: str) -> Segments:
    """Segments of a shape's outline, or of the middle of its strokes for a digit.

    Args:
        shape: name of the shape.

    Returns:
        (M, 4) x and y of the start and of the end. The polygon of a circle has the circle's area.
    """
    polygons = _polygons()
    lines = polygons[shape] if shape in polygons else stroke_lines(shape)
    return np.array([[*a, *b] for line in lines for a, b in pairwise(line)], dtype=np.float64)


def _polygon(radius: float) -> Segments:
    angle = 2 * np.pi * np.arange(_CORNERS + 1) / _CORNERS
    radius *= np.sqrt(2 * np.pi / (_CORNERS * np.sin(2 * np.pi / _CORNERS)))  # of equal area
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star() -> Segments:
    angle = np.pi * np.arange(11) / 5
    radius = STAR_RADIUS * np.where(np.arange(11) % 2, STAR_INNER, 1.0)
    centre = STAR_RADIUS * (1 - np.cos(np.pi / 5)) / 2
    return np.stack([radius * np.sin(angle), centre - radius * np.cos(angle)], axis=1)


def _polygons() -> Mapping[str, list[Segments]]:
    """Closed polygons (M, 2) of each shape that is not made of strokes."""
    return {
        "circle": [_polygon(1.0)],
        "square": [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])],
        "triangle": [np.array([(0, -1), (1, 1), (-1, 1), (0, -1)])],
        "ring": [_polygon(1.0), _polygon(RING_HOLE)],
        "star": [_star()],
    }
