"""A grid of fresh samples of the bundled models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from undiffuse.errors import UsageError
from undiffuse.files import replacing
from undiffuse.zoo import bundled_models

if TYPE_CHECKING:
    from PIL.Image import Image

    from undiffuse.images import Bytes

#: Samples of each model on the grid, and the side of a sample's cell.
_SHOWN, _SIDE = 16, 96
#: Of the names next to the rows, in pixels.
_TEXT = 18


def save_bundled_grid(path: Path, device: str = "auto", seed: int = 0) -> list[str]:
    """Write an image with a row of fresh samples for each bundled model, its name with it; returns the names.

    Args:
        path: a PNG file.
        device: ``cpu``, ``cuda`` or ``auto``.
        seed: of the first sample of each model.
    Raises:
        UsageError: no model is bundled.
    """
    from undiffuse.api.loading import load
    from undiffuse.images import grid_of

    names = list(bundled_models())
    if not names:
        raise UsageError("no models are bundled with this installation; put the package's folder zoo back")
    rows = [_cells(load(name, device).sample(_SHOWN, seed=seed).numpy()) for name in names]
    grid = _labelled(grid_of(np.concatenate(rows), columns=_SHOWN, smallest_side=_SIDE), names)
    with replacing(path) as temporary:
        grid.save(temporary, format="PNG", optimize=True)
    return names


def _labelled(grid: Bytes, names: Sequence[str]) -> Image:
    """The grid with the name of each row's model at its left."""
    from PIL import Image, ImageDraw, ImageFont

    from undiffuse.images import to_image

    font = ImageFont.load_default(_TEXT)
    left = math.ceil(max(font.getlength(name) for name in names)) + _TEXT
    drawn = to_image(grid)
    paper = Image.new("RGB", (left + drawn.width, drawn.height), "white")
    paper.paste(drawn, (left, 0))
    row_height = drawn.height / len(names)
    for row, name in enumerate(names):
        place = (left - _TEXT // 2, (row + 0.5) * row_height)
        ImageDraw.Draw(paper).text(place, name, fill="black", font=font, anchor="rm")
    return paper


def _cells(samples: Bytes) -> Bytes:
    """Images of any size and number of channels in the middle of colour cells, enlarged by a whole factor."""
    count, (height, width) = len(samples), samples.shape[2:]
    factor = max(1, _SIDE // max(height, width))
    enlarged = samples.repeat(factor, axis=2).repeat(factor, axis=3)[:, :, :_SIDE, :_SIDE]
    cells = np.full((count, 3, _SIDE, _SIDE), 128, dtype=np.uint8)
    top, left = (_SIDE - enlarged.shape[2]) // 2, (_SIDE - enlarged.shape[3]) // 2
    cells[:, :, top : top + enlarged.shape[2], left : left + enlarged.shape[3]] = enlarged
    return cells
