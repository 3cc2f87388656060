"""Coverage of pixels by the shapes of scenes: the fraction of each pixel's area that a shape covers.

A shape is defined on the square [-1, 1]^2, x to the right and y downwards, and fills it in at least one direction, so
that the side of its bounding box is its size. Coverage is the mean over a fine grid of 8 x 8 points per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Plane = npt.NDArray[np.float64]
Inside = Callable[[Plane, Plane], npt.NDArray[np.bool_]]

#: Positions are multiples of 1 / STEPS pixels.
STEPS = 4
_POINTS = 8  # per pixel, a multiple of STEPS
RING_HOLE = 0.5  # radius of the hole over that of the ring
STAR_INNER = 0.45  # radius of the inner corners over that of the tips
STAR_RADIUS = float(1 / np.sin(2 * np.pi / 5))  # of the tips: the outer ones touch the sides of the square
_STROKE = 0.2  # half of the width of a digit's strokes


def _circle(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
    return x**2 + y**2 <= 1


def _ring(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
    square = x**2 + y**2
    return (square <= 1) & (square >= RING_HOLE**2)


def _square(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
    return np.maximum(np.abs(x), np.abs(y)) <= 1


def _triangle(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
    return (np.abs(y) <= 1) & (np.abs(x) <= (y + 1) / 2)


def _star(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
    radius = STAR_RADIUS
    y = y - (radius - radius * np.cos(np.pi / 5)) / 2  # tips at -radius, feet at radius cos(pi/5): centre them
    angle = np.arctan2(x, -y) % (2 * np.pi / 5)
    angle = np.minimum(angle, 2 * np.pi / 5 - angle)  # from the nearest tip, in [0, pi/5]
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    inner = radius * STAR_INNER * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    inside: npt.NDArray[np.bool_] = (along - radius) * inner[1] <= across * (inner[0] - radius)
    return inside


#: Strokes of the digits: polylines through points (x, y) in [-1, 1]^2 before the width of the stroke is subtracted.
_ROUND = 24


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of an ellipse's arc; angles in units of a full circle, from the right, clockwise as y points downwards."""
    angles = 2 * np.pi * np.linspace(start, end, _ROUND)
    return [(x + rx * float(np.cos(angle)), y + ry * float(np.sin(angle))) for angle in angles]


_WIDE = 0.6
_STROKES: Mapping[str, list[list[tuple[float, float]]]] = MappingProxyType(
    {
        "zero": [_arc(0, 0, _WIDE, 1, 0, 1)],
        "one": [[(-0.4, -0.55), (0.05, -1), (0.05, 1)]],
        "two": [[*_arc(0, -0.45, _WIDE, 0.55, -0.5, 0.08), (-_WIDE, 1), (_WIDE, 1)]],
        "three": [[(-_WIDE, -1), (_WIDE, -1), (-0.05, -0.2), *_arc(-0.05, 0.4, _WIDE + 0.05, 0.6, -0.25, 0.4)]],
        "four": [[(0.3, 1), (0.3, -1), (-0.75, 0.4), (0.75, 0.4)]],
        "five": [[(_WIDE, -1), (-_WIDE, -1), (-_WIDE, -0.15), *_arc(-0.1, 0.35, _WIDE + 0.1, 0.65, -0.35, 0.38)]],
        "six": [_arc(0, 0.4, _WIDE, 0.6, 0, 1), [*_arc(0.35, 0.4, 0.95, 1.4, -0.5, -0.25)]],
        "seven": [[(-_WIDE, -1), (_WIDE, -1), (-0.2, 1)]],
        "eight": [_arc(0, -0.52, 0.5, 0.48, 0, 1), _arc(0, 0.48, 0.62, 0.52, 0, 1)],
        "nine": [_arc(0, -0.4, _WIDE, 0.6, 0, 1), [*_arc(-0.35, -0.4, 0.95, 1.4, 0, 0.25)]],
    }
)


def stroke_lines(name: str) -> list[Plane]:
    """Polylines (M, 2) along the middle of the strokes of a digit."""
    return [np.array(line) * (1 - _STROKE) for line in _STROKES[name]]


def _strokes(name: str) -> Inside:
    def inside(x: Plane, y: Plane) -> npt.NDArray[np.bool_]:
        found = np.zeros(np.broadcast(x, y).shape, dtype=bool)
        for line in stroke_lines(name):
            for a, b in pairwise(line):
                found |= _near_segment(x, y, a, b)
        return found

    return inside


def _near_segment(x: Plane, y: Plane, a: Plane, b: Plane) -> npt.NDArray[np.bool_]:
    """Whether points are at most half of a stroke's width from the segment between a and b.

    Args:
        x: (1, W) coordinates.
        y: (H, 1) coordinates.
        a, b: (2,) ends of the segment.
    """
    low, high = np.minimum(a, b) - _STROKE, np.maximum(a, b) + _STROKE
    columns, rows = (
        (at.ravel() >= least) & (at.ravel() <= most) for at, least, most in zip((x, y), low, high, strict=True)
    )
    x, y = x[:, columns] - a[0], y[rows] - a[1]
    step = b - a
    along = np.clip((x * step[0] + y * step[1]) / max(float(step @ step), 1e-12), 0, 1)
    near = np.zeros((len(rows), len(columns)), dtype=bool)
    near[np.ix_(rows, columns)] = (x - along * step[0]) ** 2 + (y - along * step[1]) ** 2 <= _STROKE**2
    return near


#: Whether points of the square are inside a shape, by its name.
INSIDE: Mapping[str, Inside] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "triangle": _triangle,
        "ring": _ring,
        "star": _star,
        **{name: _strokes(name) for name in _STROKES},
    }
)


@lru_cache(maxsize=1024)
def coverages(shape: str, side: float, window: int) -> Floats:
    """Coverage of a window's pixels for all sub-pixel positions of a shape.

    Args:
        shape: name of the shape.
        side: of the bounding box in pixels, a multiple of 1 / STEPS.
        window: height and width of the window in pixels, at least side + 1.

    Returns:
        (STEPS, STEPS, window, window) in [0, 1]: the upper left corner of the bounding box is at (y, x) / STEPS.
    """
    fine, scale = window * _POINTS, _POINTS // STEPS
    at = (np.arange(round(side * _POINTS)) + 0.5) / _POINTS * (2 / side) - 1
    mask = np.zeros((fine, fine), dtype=bool)
    mask[: len(at), : len(at)] = INSIDE[shape](at[None, :], at[:, None])
    moved = [[_averaged(_shifted(mask, y * scale, x * scale), window) for x in range(STEPS)] for y in range(STEPS)]
    found = np.array(moved, dtype=np.float32)
    found.setflags(write=False)
    return found


def _shifted(mask: npt.NDArray[np.bool_], down: int, right: int) -> npt.NDArray[np.bool_]:
    shifted = np.zeros_like(mask)
    shifted[down:, right:] = mask[: len(mask) - down, : len(mask) - right]
    return shifted


def _averaged(mask: npt.NDArray[np.bool_], window: int) -> Plane:
    means: Plane = mask.reshape(window, _POINTS, window, _POINTS).mean(axis=(1, 3))
    return means
