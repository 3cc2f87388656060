"""Cutout: a rectangle of mid-grey, so that the network does not rely on one region of the image.

Source: DeVries & Taylor 2017, arXiv:1708.04552.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.augment.transformation import Transformation


def _label(numbers: Tensor, share: float) -> Tensor:
    return numbers


#: Whether it is applied, and its centre from (-1, -1), the upper left corner, to (1, 1).
CUTOUT = Transformation(("uniform", "uniform"), None, _label, 3, "cutout_share")


def cut_out(x: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Fill a rectangle of images (B, C, H, W) with 0, mid-grey of [-1, 1], according to ``numbers`` (B, 3).

    Its sides are ``share`` of the image's height and width, clipped to the image.
    """
    inside = torch.ones((), dtype=torch.bool)
    for axis, centre in ((2, numbers[:, 2]), (3, numbers[:, 1])):
        side = x.shape[axis]
        place = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
        near = (place - centre[:, None]).abs() < share  # (B, side)
        inside = inside & (near[:, None, :, None] if axis == 2 else near[:, None, None, :])
    hole = inside & (numbers[:, 0] > 0)[:, None, None, None]
    return x.masked_fill(hole.to(x.device), 0.0)
