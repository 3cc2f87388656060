"""Reading the things in an image of a scene: their shape, colour, size and box.

The colour c of a pixel that a thing of colour k covers by the share a is b + a (k - b) with the background b. Each
pixel gets the colour of the least squared residual, and a by projection. Connected pixels with a above a threshold are
one thing. Its coverage is compared with that of each shape and side, moved so that the centroids agree, by

    <u, v> / (|u|^2 + |v|^2 - <u, v>)

which for masks is intersection over union.

Source of the measure: Tanimoto 1958; Willett, Barnard & Downs 1998, "Chemical similarity searching", eq. for continuous
variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from undiffuse.annotators.scenes.shapes import STEPS, Floats, coverages
from undiffuse.annotators.scenes.vocabulary import BACKGROUND, COLOURS, Vocabulary, quarters
from undiffuse.errors import UsageError

#: Smallest share of a pixel's area that a thing covers for the pixel to count, and least similarity to a shape.
_COVERED, _SIMILAR = 0.4, 0.7
#: Areas of fewer pixels are ignored; in images above 32 pixels of fewer squared units (1/32 of the image).
_SPECK = 3.0
#: A connected area is divided by colour. A colour is in it if it has this share and this number (per squared unit) of
#: its core, the pixels whose coverage is at least the third number times the largest.
_COLOUR_SHARE, _COLOUR_PIXELS, _CORE = 0.1, 8.0, 0.75
#: Sides that are compared, relative to those of the vocabulary.
_SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)
_MOST_COVERAGE = 1.15  # of a pixel brighter than the colour
#: Largest difference of the logarithms of the areas of a thing and of a shape that it is compared with.
_AREA_RANGE = 0.35
_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class FoundThing:
    """A thing in an image.

    Args:
        shape: name of the shape; None if it resembles no shape.
        colour: name of the colour.
        size: ``small`` or ``large``; None where scenes have one size.
        box: left, top, right and bottom edges in pixels.
        similarity: to the shape, in [0, 1].
    """

    shape: str | None
    colour: str
    size: str | None
    box: tuple[float, float, float, float]
    similarity: float

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the centre of the box, in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class _Templates:
    """Coverage of T combinations of shape and side at all sub-pixel positions."""

    shapes: tuple[str, ...]  # (T,)
    sides: Floats  # (T,)
    centroids: Floats  # (T, 2) x and y from the upper left corner of the box
    areas: Floats  # (T,)
    coverage: Floats  # (T, STEPS, STEPS, window, window)


def read_scene(image: npt.NDArray[np.uint8], vocabulary: Vocabulary) -> list[FoundThing]:
    """The things in an image.

    Args:
        image: (3, size, size) uint8.
        vocabulary: what the image may contain.

    Raises:
        UsageError: if the image has another shape.
    """
    size = vocabulary.size
    if image.shape != (3, size, size):
        raise UsageError(
            f"expected an image of shape (3, {size}, {size}), got {image.shape}; set the vocabulary's size"
        )
    residual, coverage = _colours(image, vocabulary)
    return [_read_thing(area, coverage, vocabulary) for area in _areas(residual, coverage, vocabulary)]


@dataclass(frozen=True)
class _Area:
    """Connected pixels of one colour: a mask, the upper left corner (x, y) of the mask, and the colour's position."""

    mask: npt.NDArray[np.bool_]
    corner: tuple[int, int]
    colour: int


def _colours(image: npt.NDArray[np.uint8], vocabulary: Vocabulary) -> tuple[Floats, Floats]:
    """(H, W, K) squared residual of each colour up to a term of the pixel, and (H, W) covered share by the best one."""
    background = np.array(BACKGROUND, dtype=np.float32)
    steps = np.array([COLOURS[name] for name in vocabulary.colours], dtype=np.float32) - background
    pixels = image.reshape(3, -1).T - background
    squares, products = (steps**2).sum(1), pixels @ steps.T
    shares = np.clip(products / squares, 0, _MOST_COVERAGE)
    residual = shares**2 * squares - 2 * shares * products  # |pixel - share step|^2 - |pixel|^2
    share = np.take_along_axis(shares, residual.argmin(1)[:, None], 1)
    size = image.shape[1:]
    return residual.reshape(*size, -1), np.minimum(share, 1).reshape(size).astype(np.float32)


def _areas(residual: Floats, coverage: Floats, vocabulary: Vocabulary) -> list[_Area]:
    """Connected areas; touching things of different colours are separated."""
    speck = _SPECK * max(1.0, vocabulary.unit**2)
    areas = []
    for mask, (x, y) in _components(coverage > _COVERED, speck):
        part = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
        present = _present_colours(residual[part][mask], coverage[part][mask], vocabulary)
        if len(present) == 1:
            areas.append(_Area(mask, (x, y), present[0]))
            continue
        colour = np.array(present)[residual[part][..., present].argmin(-1)]
        for number in present:
            parts = _components(mask & (colour == number), speck)
            areas += [_Area(inner, (x + left, y + top), number) for inner, (left, top) in parts]
    return areas


def _present_colours(residual: Floats, coverage: Floats, vocabulary: Vocabulary) -> list[int]:
    """Positions of the colours in the core of a connected area of P pixels: residual (P, K), coverage (P,)."""
    core = residual[coverage >= _CORE * coverage.max()].argmin(1)
    counts = np.bincount(core, minlength=len(vocabulary.colours))
    least = max(_COLOUR_SHARE * len(core), _COLOUR_PIXELS * vocabulary.unit**2)
    found: list[int] = np.flatnonzero(counts >= least).tolist()
    return found or [int(counts.argmax())]


def _components(mask: npt.NDArray[np.bool_], least: float) -> list[tuple[npt.NDArray[np.bool_], tuple[int, int]]]:
    """Masks of the connected areas of at least ``least`` pixels, and the corner (x, y) of each."""
    labels, _ = ndimage.label(mask, structure=_NEIGHBOURS)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        own = labels[box] == number
        if own.sum() >= least:
            found.append((own, (box[1].start, box[0].start)))
    return found


def _read_thing(area: _Area, coverage: Floats, vocabulary: Vocabulary) -> FoundThing:
    templates, margin = _templates(vocabulary), _window(vocabulary) + 1
    own = _padded(area, coverage, margin)
    difference = np.abs(np.log(templates.areas / own.sum()))
    near = np.flatnonzero(difference < max(_AREA_RANGE, float(difference.min()) + 1e-6))
    corner, similarity = _compare(own, templates, near)
    best = int(similarity.argmax())
    side, (left, top) = float(templates.sides[near[best]]), (corner[best] - margin + area.corner).tolist()
    return FoundThing(
        shape=templates.shapes[near[best]] if similarity[best] >= _SIMILAR else None,
        colour=vocabulary.colours[area.colour],
        size=_size_of(side, vocabulary),
        box=(left, top, left + side, top + side),
        similarity=float(similarity[best]),
    )


def _padded(area: _Area, coverage: Floats, margin: int) -> Floats:
    """Coverage of an area and of the pixels next to it, with ``margin`` free pixels around the area."""
    (x, y), (height, width) = area.corner, area.mask.shape
    own = np.zeros((height + 2, width + 2), dtype=bool)
    own[1:-1, 1:-1] = area.mask
    near = np.zeros_like(own)
    for down, right in product(range(3), repeat=2):
        near[down : down + height, right : right + width] |= area.mask
    around = np.zeros(own.shape, dtype=np.float32)
    top, left = max(1 - y, 0), max(1 - x, 0)  # the image ends there
    inside = coverage[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    around[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    around[~own & ((around > _COVERED) | ~near)] = 0  # of other things
    padded = np.zeros((height + 2 * margin, width + 2 * margin), dtype=np.float32)
    padded[margin - 1 : margin + height + 1, margin - 1 : margin + width + 1] = around
    return padded


def _compare(own: Floats, templates: _Templates, near: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Corner (T, 2) of each template's box with equal centroid, and similarity (T,) there."""
    total = own.sum()
    x, y = (np.arange(length, dtype=np.float32) + 0.5 for length in own.shape[::-1])
    centroid = np.array([own.sum(0) @ x, own.sum(1) @ y]) / total
    quarter = np.round((centroid - templates.centroids[near]) * STEPS).astype(np.int64)
    whole, part = np.divmod(quarter, STEPS)
    window = templates.coverage.shape[-1]
    at = whole[:, :, None] + np.arange(window)
    patches = own[at[:, 1, :, None], at[:, 0, None, :]].reshape(len(near), -1)
    shapes = templates.coverage[near, part[:, 1], part[:, 0]].reshape(len(near), -1)
    common = np.einsum("tp,tp->t", patches, shapes)
    similarity = common / ((own**2).sum() + np.einsum("tp,tp->t", shapes, shapes) - common)
    return quarter.astype(np.float32) / STEPS, similarity


def _size_of(side: float, vocabulary: Vocabulary) -> str | None:
    """The size whose side is nearer, by ratio."""
    sides = vocabulary.sides
    return None if None in sides else min(sides, key=lambda size: min(abs(np.log(side / one)) for one in sides[size]))


@lru_cache(maxsize=16)
def _sides(vocabulary: Vocabulary) -> tuple[float, ...]:
    sides = {side for choices in vocabulary.sides.values() for side in choices}
    return tuple(sorted({quarters(side * scale) for side in sides for scale in _SCALES}))


def _window(vocabulary: Vocabulary) -> int:
    return ceil(_sides(vocabulary)[-1]) + 1


@lru_cache(maxsize=16)
def _templates(vocabulary: Vocabulary) -> _Templates:
    window = _window(vocabulary)
    keys = [(shape, side) for shape in vocabulary.shapes for side in _sides(vocabulary)]
    coverage = np.stack([coverages(shape, side, window) for shape, side in keys])
    pixels = np.arange(window, dtype=np.float32) + 0.5
    at_corner = coverage[:, 0, 0]
    areas = at_corner.sum((1, 2))
    centroids = np.stack([at_corner.sum(1) @ pixels, at_corner.sum(2) @ pixels], axis=1) / areas[:, None]
    sides = np.array([side for _, side in keys], dtype=np.float32)
    return _Templates(tuple(shape for shape, _ in keys), sides, centroids, areas, coverage)
