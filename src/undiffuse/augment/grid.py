"""An image grid that shows what an augmentation does to some images."""

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

#: Rows of a grid: the images that it shows, each in a row.
GRID_ROWS = 6
#: Columns of the whole pipeline.
WHOLE = 5


def grid_columns(config: AugmentConfig, shape: tuple[int, ...]) -> list[str]:
    """What the columns of the grid show, from left to right.

    Args:
        config: an augmentation.
        shape: (C, H, W) of the images.
    """
    return ["as it is", *Augmentation(config, shape).transformations, *["all together"] * WHOLE]


def augmentation_grid(images: Tensor, config: AugmentConfig, seed: int = 0, smallest_side: int = 48) -> Bytes:
    """Images under each transformation alone, then under draws of all of them together.

    Args:
        images: (B, C, H, W) uint8.
        config: an augmentation.
        seed: of the draws.
        smallest_side: small images are enlarged to about so many pixels.
    Returns:
        (C, height, width) uint8: a row for each image, a column for each name of ``grid_columns``. Each transformation
        alone is shown at its strength: at either end of its range, or one standard deviation either way.
    Raises:
        UsageError: these are points, no images.
    """
    count = len(images)
    augmentation = Augmentation(config, tuple(images.shape[1:]))
    columns = [images.float() / 127.5 - 1]
    columns += [augmentation(images, draws) for draws in _alone(augmentation, count)]
    columns += [augmentation(images, augmentation.draw(_Drawn(seed, k), count)) for k in range(WHOLE)]
    cells = torch.stack(columns, dim=1).flatten(0, 1)
    levels = ((cells + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return grid_of(levels, columns=len(columns), gap=2, smallest_side=smallest_side)


def _alone(augmentation: Augmentation, count: int) -> Iterator[Draws]:
    """Each transformation for all images, up and down in turn."""
    either = 1.0 - 2.0 * (torch.arange(count, dtype=torch.float64) % 2)
    for name in augmentation.transformations:
        reach = 0.5 if name == "cutout" else 1.0  # its numbers are a place, and not at the border
        numbers = [reach * either.roll(index // 2) for index in range(len(TRANSFORMATIONS[name].draws))]
        yield {name: torch.stack([torch.ones_like(either), *numbers], dim=1)}


class _Drawn:
    """Uniform numbers of one column, in the order in which they are asked for."""

    def __init__(self, seed: int, column: int) -> None:
        self._stream = np.random.Generator(np.random.Philox(key=np.array([seed, column], dtype=np.uint64)))

    def uniform(self, count: int, purpose: str) -> Tensor:
        return torch.from_numpy(self._stream.random(count)).clamp(min=2.0**-54)
