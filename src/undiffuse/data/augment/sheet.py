"""A sheet that shows what an augmentation does to some pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undiffuse.data.augment.config import AugmentConfig
from undiffuse.data.augment.pipeline import PARTS, Augmentation, Draws
from undiffuse.data.dataset import Dataset
from undiffuse.images import grid_of

Bytes = npt.NDArray[np.uint8]

ROWS = 6
#: Columns of the whole pipeline.
WHOLE = 5


def sheet_columns(config: AugmentConfig, shape: tuple[int, ...]) -> list[str]:
    """What the columns of a sheet show, from left to right."""
    return ["as it is", *Augmentation(config, shape).parts, *["all together"] * WHOLE]


def augmentation_sheet(
    dataset: Dataset, config: AugmentConfig, seed: int = 0, rows: int = ROWS, smallest_side: int = 48
) -> Bytes:
    """Pictures under each transformation alone, then under draws of all of them together.

    Args:
        dataset: of pictures; ``rows`` of them are taken, spread over the set.
        config: an augmentation.
        seed: of the draws.
        smallest_side: small pictures are enlarged to about so many pixels.
    Returns:
        (C, height, width) uint8: a row a picture, a column a name of ``sheet_columns``. Each transformation alone is
        shown at its strength: at either end of its range, or one standard deviation either way.
    Raises:
        UsageError: the set holds points.
    """
    augmentation = Augmentation(config, dataset.shape)
    count = min(rows, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    pictures = dataset.fetch(chosen).items
    columns = [pictures.float() / 127.5 - 1]
    columns += [augmentation(pictures, draws) for draws in _alone(augmentation, count)]
    columns += [augmentation(pictures, augmentation.draw(_Drawn(seed, k), count)) for k in range(WHOLE)]
    cells = torch.stack(columns, dim=1).flatten(0, 1)
    levels = ((cells + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return grid_of(levels, columns=len(columns), gap=2, smallest_side=smallest_side)


def _alone(augmentation: Augmentation, count: int) -> Iterator[Draws]:
    """Each transformation for all pictures, up and down in turn."""
    either = 1.0 - 2.0 * (torch.arange(count, dtype=torch.float64) % 2)
    for name in augmentation.parts:
        reach = 0.5 if name == "cutout" else 1.0  # its numbers are a place, and not at the border
        numbers = [reach * either.roll(index // 2) for index in range(len(PARTS[name].draws))]
        yield {name: torch.stack([torch.ones_like(either), *numbers], dim=1)}


class _Drawn:
    """Uniform numbers of one column, in the order in which they are asked for."""

    def __init__(self, seed: int, column: int) -> None:
        self._stream = np.random.Generator(np.random.Philox(key=np.array([seed, column], dtype=np.uint64)))

    def uniform(self, count: int, purpose: str) -> Tensor:
        return torch.from_numpy(self._stream.random(count)).clamp(min=2.0**-54)
