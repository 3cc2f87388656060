"""Arrays to image files and grids. Any package may import this module; Pillow is imported on first use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from undiffuse.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = npt.NDArray[np.uint8]

#: Side in pixels of each image in a grid that is viewed as a file, such as ``grid.png``.
SHOWN_SIDE = 96


def to_image(array: Bytes) -> Image:
    """A Pillow image of (C, H, W) uint8 with 1 or 3 channels."""
    from PIL import Image

    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def grid_of(images: Bytes, columns: int | None = None, gap: int = 1, smallest_side: int = 48) -> Bytes:
    """Images side by side as one (C, H, W): (N, C, H, W) in rows of ``columns``, near a square by default.

    Small images are enlarged by a whole factor to about ``smallest_side`` pixels, each pixel a square.
    """
    count, channels, height, width = images.shape
    columns = columns or _columns(count)
    rows = math.ceil(count / columns)
    factor = _factor(height, width, smallest_side)
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    cell_h, cell_w = height * factor + gap, width * factor + gap
    grid = np.full((channels, rows * cell_h + gap, columns * cell_w + gap), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * cell_h + gap, (index % columns) * cell_w + gap
        grid[:, top : top + cell_h - gap, left : left + cell_w - gap] = image
    return grid


def images_in(grid: Bytes, shape: tuple[int, int, int], count: int) -> Bytes:
    """Invert ``grid_of`` with its default arguments: the ``count`` images (N, C, H, W) of a grid."""
    _, height, width = shape
    factor, columns = _factor(height, width), _columns(count)
    cells = [divmod(index, columns) for index in range(count)]
    corners = [(row * (height * factor + 1) + 1, column * (width * factor + 1) + 1) for row, column in cells]
    return np.stack([grid[:, y : y + height * factor : factor, x : x + width * factor : factor] for y, x in corners])


def _columns(count: int) -> int:
    return max(1, math.ceil(math.sqrt(count)))


def _factor(height: int, width: int, smallest_side: int = 48) -> int:
    return max(1, round(smallest_side / max(height, width)))


def density_of(points: npt.NDArray[Any], limit: float = 2.5, side: int = 256) -> Bytes:
    """Points (N, 2) as a grey image (1, side, side) of how many fall on each pixel of [-limit, limit]^2."""
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=side, range=[[-limit, limit]] * 2)
    shade = np.sqrt(counts / max(counts.max(), 1))[::-1]
    image: Bytes = (255 - 255 * shade).astype(np.uint8)[None]
    return image


def image_of(samples: npt.NDArray[Any], columns: int | None = None, smallest_side: int = 48) -> Bytes:
    """One image of a batch of samples: a grid of images (``grid_of``) or the density of points (``density_of``)."""
    return grid_of(samples, columns, smallest_side=smallest_side) if samples.ndim == 4 else density_of(samples)


def save_png(path: Path, array: Bytes) -> None:
    """Write (C, H, W) uint8 as a PNG atomically."""
    with replacing(path) as temporary:
        fill_png(temporary, array)


def fill_png(path: Path, array: Bytes, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG non-atomically: for files in a temporary folder that is synced and renamed as a whole.

    Args:
        path: of the file.
        array: (C, H, W) uint8.
        texts: texts in the file, by keys of 1 to 79 Latin-1 characters; they do not affect the pixels.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)
    to_image(array).save(path, format="PNG", pnginfo=info)


def uint8_advice(low: float, high: float) -> str:
    """Advice for converting values x in [``low``, ``high``] to levels 0..255, by guessing the range."""
    if low >= 0 and high <= 1:
        return "x * 255, rounded"
    if low >= -1 and high <= 1:
        return "(x + 1) * 127.5, rounded"
    if low >= 0 and high <= 255:
        return "x, rounded"
    if low >= 0 and 255 < high <= 65535:
        return "x / 257, rounded"
    return "levels that you choose: they match no known range of image values"
