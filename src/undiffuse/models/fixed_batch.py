"""The batch size with which networks are evaluated in sampling.

The output of a network depends on the batch size in the last bits, so the batch size is fixed: a function of the model
and the kind of device, independent of the number of requested samples. Larger batches reduce call overhead, smaller
ones the padding of the last batch.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from undiffuse.core.space import Space

_CUDA_SIZE = 128
#: Networks for points are so small that call overhead dominates.
_POINT_SIZE = 1024
#: Approximate work per batch on a CPU, in products of a weight and a pixel, for batches of 16 to 64 images. Measured on
#: two cores, 64 images of 28x28 in batches of 16 and of 64: 73 and 36 ms with 1.6M weights at half resolution, 137 and
#: 98 ms with as many at full resolution.
_CPU_WORK = 1e11
_FEWEST, _MOST = 16, 64


def fixed_batch_size(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Batch size for evaluating a network: a power of two for images on a CPU, constants otherwise.

    Args:
        network: the network, whose parameters are counted.
        shape: shape of one sample, (C, H, W) or (D,).
        device: device of the evaluation.
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
