"""Inspection of a data set before training: its properties as a table, its items as an image grid."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from undiffuse.captions import alternatives_of
from undiffuse.data.config import SourceConfig
from undiffuse.data.dataset import Dataset, count_distinct
from undiffuse.data.readers.decoding.image import from_array
from undiffuse.data.split import split_by_content
from undiffuse.errors import UsageError

_MIN_ITEMS_READ = 4096  # items read for the range of values, at least
_READ_BYTES = 2**26  # or as many items as fit in this many bytes, if that is more
_CHUNK = 512
_NUM_CAPTIONS = 3
_TILE_SIDE = 32  # smaller images are enlarged by an integer factor in the grid
_PLOT_SIDE = 512
_TEXT_SIDE = 12


def describe(dataset: Dataset, config: SourceConfig) -> dict[str, Any]:
    """Summarize a data set as JSON-serializable values, as ``undiffuse data info`` prints it.

    Returns:
        name, kind (``images`` or ``points``), num_items, shape, classes (name -> count), split (``train`` and
        ``validation`` counts), num_duplicates, value_range (of ``num_looked_at`` evenly spaced items), captions (a
        few examples; empty if the set has none), fingerprint and provenance.
    """
    captions = dataset.captions
    train, validation = split_by_content(dataset, config.validation_fraction)
    rows = evenly_spaced(len(dataset), max(_MIN_ITEMS_READ, _READ_BYTES // math.prod(dataset.shape)))
    low, high = _value_range(dataset, rows)
    return {
        "name": dataset.name,
        "kind": "images" if dataset.space.is_image else "points",
        "num_items": len(dataset),
        "shape": list(dataset.shape),
        "classes": class_counts(dataset),
        "split": {"train": len(train), "validation": len(validation)},
        "num_duplicates": len(dataset) - count_distinct(dataset.hashes()),
        "value_range": [low, high],
        "num_looked_at": len(rows),
        "captions": [captions[row] for row in evenly_spaced(len(dataset), _NUM_CAPTIONS)] if captions else [],
        "fingerprint": dataset.fingerprint,
        "provenance": dict(dataset.provenance),
    }


def _value_range(dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    parts = (dataset.items(rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK))
    ends = [(float(part.min()), float(part.max())) for part in parts]
    return min(low for low, _ in ends), max(high for _, high in ends)


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Number of items of each class; empty if there are no labels."""
    if dataset.labels is None:
        return {}
    counts = Counter(dataset.labels.tolist())
    return {name: counts[index] for index, name in enumerate(dataset.class_names)}


def evenly_spaced(size: int, count: int) -> npt.NDArray[np.int64]:
    """``count`` evenly spaced positions from 0 to size-1, or all of them if there are fewer."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(np.int64)


def preview_grid(dataset: Dataset, num: int = 64) -> Image.Image:
    """Render evenly spaced items of a data set as one image: a grid of images, or a density plot of points.

    Args:
        dataset: a non-empty set of images, or of points (the first two coordinates are drawn).
        num: number of images (at least 1); points are all drawn, up to a hundred thousand. If the images have
            captions, those of the first row are listed below the grid.
    """
    if len(dataset) == 0 or num < 1:
        raise UsageError(f"cannot preview {num} of {len(dataset)} items; expected at least one")
    if not dataset.space.is_image:
        return _scatter(dataset.items(evenly_spaced(len(dataset), 100_000)))
    rows = evenly_spaced(len(dataset), num)
    grid = tile(dataset.items(rows))
    return (
        grid
        if dataset.captions is None
        else _with_captions(grid, [alternatives_of(dataset.captions[row])[0] for row in rows])
    )


def _with_captions(grid: Image.Image, captions: list[str]) -> Image.Image:
    """Add the captions of the first row in a list below the grid."""
    columns = int(np.ceil(np.sqrt(len(captions))))
    font = ImageFont.load_default(_TEXT_SIDE)
    lines = [f"{number}  {text}" for number, text in enumerate(captions[:columns], start=1)]
    width = max(grid.width, min(_PLOT_SIDE, max(math.ceil(font.getlength(line)) for line in lines) + 8))
    page = Image.new(grid.mode, (width, grid.height + (_TEXT_SIDE + 4) * len(lines) + 4), "white")
    page.paste(grid, (0, 0))
    for row, line in enumerate(lines):
        ImageDraw.Draw(page).text((4, grid.height + (_TEXT_SIDE + 4) * row), line, fill="black", font=font)
    return page


def tile(images: npt.NDArray[np.uint8], gap: int = 2) -> Image.Image:
    """Arrange (N, C, H, W) uint8 images in a nearly square grid on a grey background."""
    num, channels, height, width = images.shape
    zoom = max(1, _TILE_SIDE // max(height, width))
    columns = int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    step_y, step_x = height * zoom + gap, width * zoom + gap
    grid = np.full((channels, rows * step_y + gap, columns * step_x + gap), 128, dtype=np.uint8)
    for index, image in enumerate(images.repeat(zoom, axis=2).repeat(zoom, axis=3)):
        top, left = gap + index // columns * step_y, gap + index % columns * step_x
        grid[:, top : top + height * zoom, left : left + width * zoom] = image
    return from_array(grid)


def _scatter(points: npt.NDArray[np.float32]) -> Image.Image:
    """Density plot of the first two coordinates: dark on white, equal scales, second axis upwards."""
    plane = points[:, :2] if points.shape[1] > 1 else np.stack([points[:, 0], np.zeros(len(points))], axis=1)
    centre, half_range = (plane.min(0) + plane.max(0)) / 2, float(np.ptp(plane, axis=0).max()) / 2 or 1.0
    edges = [np.linspace(c - 1.05 * half_range, c + 1.05 * half_range, _PLOT_SIDE + 1) for c in centre]
    counts, _, _ = np.histogram2d(plane[:, 0], plane[:, 1], bins=edges)
    shade = np.minimum(counts / max(np.quantile(counts[counts > 0], 0.9), 1), 1)
    return Image.fromarray((255 * (1 - shade)).astype(np.uint8).T[::-1].copy())
