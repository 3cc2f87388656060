"""How many samples a network is evaluated on at a time.

A network's output changes in the last bits with the batch size, so the size is fixed: a function of the model and the
kind of device, never of how many samples were requested. Larger batches waste less on calling short operations, smaller
ones less on the padding of the last batch.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from undiffuse.core.space import Space

_CUDA_SIZE = 128
#: Points have networks so small that calling them is what costs.
_POINT_SIZE = 1024
#: On a CPU: as many images as have about so many products of a weight and a pixel, from 16 to 64. Measured on two
#: cores, 64 images of 28x28 in batches of 16 and of 64: 73 and 36 ms with 1.6M weights at half resolution, 137 and
#: 98 ms with as many at full.
_CPU_WORK = 1e11
_FEWEST, _MOST = 16, 64


def fixed_batch_size(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """How many samples a network is evaluated on at a time: a power of two for images on a CPU, constants otherwise.

    Args:
        network: whose parameters are counted.
        shape: of one sample, (C, H, W) or (D,).
        device: where it is evaluated.
    Example:
        >>> fixed_batch_size(nn.Linear(8, 8), (1, 28, 28), torch.device("cpu"))
        64
    """
    if not Space.of_data(shape).is_spatial:
        return _POINT_SIZE
    if device.type == "cuda":
        return _CUDA_SIZE
    work = sum(parameter.numel() for parameter in network.parameters()) * shape[1] * shape[2]
    size: int = 2 ** int(math.log2(max(_CPU_WORK / max(work, 1), 1)))
    return min(max(size, _FEWEST), _MOST)
