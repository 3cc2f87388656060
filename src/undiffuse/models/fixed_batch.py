"""How many rows a network is evaluated on at a time when sampling.

A network says a little else at another number of rows, so the number is fixed: a function of the model and the kind of
device, never of how many samples were asked for. More rows waste less on calling short operations; fewer waste less on
rows that nobody asked for, which the last block is filled up with.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from undiffuse.core.space import Space

_CUDA_ROWS = 128
#: Points have networks so small that calling them is what costs.
_POINT_ROWS = 1024
#: A CPU's blocks: as many rows as have about so many products of a weight and a pixel, from 16 to 64. Measured on two
#: cores, 64 pictures of 28x28 in blocks of 16 and of 64: 73 and 36 ms with 1.6M weights at half resolution, 137 and
#: 98 ms with as many at full.
_CPU_WORK = 1e11
_FEWEST, _MOST = 16, 64


def fixed_batch_size(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Rows of a block: a power of two for pictures (C, H, W) of ``shape`` on a CPU, constants otherwise.

    Example:
        >>> fixed_batch_size(nn.Linear(8, 8), (1, 28, 28), torch.device("cpu"))
        64
    """
    if not Space.of_data(shape).is_spatial:
        return _POINT_ROWS
    if device.type == "cuda":
        return _CUDA_ROWS
    work = sum(parameter.numel() for parameter in network.parameters()) * shape[1] * shape[2]
    rows: int = 2 ** int(math.log2(max(_CPU_WORK / max(work, 1), 1)))
    return min(max(rows, _FEWEST), _MOST)
