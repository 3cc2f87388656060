"""An image grid that shows the effect of an augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undiffuse.augment.config import AugmentConfig
from undiffuse.augment.pipeline import TRANSFORMATIONS, Augmentation, Draws
from undiffuse.images import grid_of

Bytes = npt.NDArray[np.uint8]

#: Rows of a grid, one per image.
GRID_ROWS = 6
#: Columns that show the whole pipeline.
WHOLE = 5


def grid_columns(config: AugmentConfig, shape: tuple[int, ...]) -> list[str]:
    """Titles of the columns of the grid, from left to right.

    Args:
        config: an augmentation.
        shape: (C, H, W) of the images.
    """
    return ["as it is", *Augmentation(config, shape).transformations, *["all together"] * WHOLE]


def augmentation_grid(images: Tensor, config: AugmentConfig, seed: int = 0, smallest_side: int = 48) -> Bytes:
    """Images under each single transformation, then under random draws of the whole pipeline.

    Args:
        images: (B, C, H, W) uint8.
        config: an augmentation.
        seed: seed of the draws.
        smallest_side: smaller images are enlarged to about this many pixels.
    Returns:
        (C, height, width) uint8: a row for each image, a column for each name of ``grid_columns``. Single
        transformations are shown at full strength: at both ends of the range, or at plus and minus one standard
        deviation.
    Raises:
        UsageError: the items are points, not images.
    """
    count = len(images)
    augmentation = Augmentation(config, tuple(images.shape[1:]))
    columns = [images.float() / 127.5 - 1]
    columns += [augmentation(images, draws) for draws in _single_draws(augmentation, count)]
    columns += [augmentation(images, augmentation.draw(_ColumnRandom(seed, k), count)) for k in range(WHOLE)]
    cells = torch.stack(columns, dim=1).flatten(0, 1)
    levels = ((cells + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return grid_of(levels, columns=len(columns), gap=2, smallest_side=smallest_side)


def _single_draws(augmentation: Augmentation, count: int) -> Iterator[Draws]:
    """Each transformation for all images, with alternating sign."""
    signs = 1.0 - 2.0 * (torch.arange(count, dtype=torch.float64) % 2)
    for name in augmentation.transformations:
        scale = 0.5 if name == "cutout" else 1.0  # a centre that is not at the border
        numbers = [scale * signs.roll(index // 2) for index in range(len(TRANSFORMATIONS[name].draws))]
        yield {name: torch.stack([torch.ones_like(signs), *numbers], dim=1)}


class _ColumnRandom:
    """Uniform random numbers of one column, drawn sequentially."""

    def __init__(self, seed: int, column: int) -> None:
        self._stream = np.random.Generator(np.random.Philox(key=np.array([seed, column], dtype=np.uint64)))

    def uniform(self, count: int, purpose: str) -> Tensor:
        return torch.from_numpy(self._stream.random(count)).clamp(min=2.0**-54)
