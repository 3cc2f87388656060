"""A rectangle of mid-grey: the network must not lean on any one place of the image.

Source: DeVries & Taylor 2017, arXiv:1708.04552.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.augment.transformation import Transformation


def _label(numbers: Tensor, share: float) -> Tensor:
    return numbers


#: Whether there is one, and its centre from (-1, -1), the upper left corner, to (1, 1).
CUTOUT = Transformation(("uniform", "uniform"), None, _label, 3, "cutout_share")


def cut_out(x: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Images (B, C, H, W) with a rectangle at 0, mid-grey of [-1, 1], where ``numbers`` (B, 3) say so.

    It has ``share`` of the image's height and of its width, less what lies beyond the border.
    """
    inside = torch.ones((), dtype=torch.bool)
    for axis, centre in ((2, numbers[:, 2]), (3, numbers[:, 1])):
        side = x.shape[axis]
        place = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
        near = (place - centre[:, None]).abs() < share  # (B, side)
        inside = inside & (near[:, None, :, None] if axis == 2 else near[:, None, None, :])
    hole = inside & (numbers[:, 0] > 0)[:, None, None, None]
    return x.masked_fill(hole.to(x.device), 0.0)
