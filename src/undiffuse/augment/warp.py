"""Moving pixels: one projective map per image, resampled once.

Between pixels values are interpolated bicubically, which leaves an image as it is where it is moved by whole pixels.
Where the map makes things smaller, each new pixel is the mean of several places inside it, so that fine patterns fade
instead of turning into coarse ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

#: Places a side inside a new pixel, at most: enough to shrink to a quarter.
MAX_SUPERSAMPLING = 4
#: Shrinking by less than this needs no more than one place.
_NEGLIGIBLE = 0.25
_PADDING = {"reflect": "reflection", "edge": "border"}


def warp(x: Tensor, maps: Tensor, padding: Literal["reflect", "edge"] = "reflect") -> Tensor:
    """Images with their content moved; no row depends on another.

    Args:
        x: (B, C, H, W) float; gradients flow to it.
        maps: (B, 3, 3) float64 on the CPU, invertible, from places in ``x`` to places in the result, see ``geometry``.
        padding: what lies beyond the border: the reflection about it, or its last pixel.
    Returns:
        (B, C, H, W); bicubic interpolation may leave the range of ``x`` by some percent.
    """
    size = (x.shape[-2], x.shape[-1])
    backwards = torch.linalg.inv(maps)
    places = supersampling_factor(backwards, size)
    out = x
    for count in sorted(set(places.tolist())):
        rows = (places == count).nonzero()[:, 0]
        grid = _grid(backwards[rows], size, count).to(x)
        rows = rows.to(x.device)
        fine = F.grid_sample(x[rows], grid, mode="bicubic", padding_mode=_PADDING[padding], align_corners=False)
        out = out.index_copy(0, rows, F.avg_pool2d(fine, count) if count > 1 else fine)
    return out


def supersampling_factor(backwards: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,) int64: points along each side of a new pixel to sample, so that none of the given pixels is skipped.

    It is the largest distance in the given image between neighbours of the new one, which is at a corner.
    """
    height, width = size
    x, y = torch.tensor([-width, width, -width, width]) / 2, torch.tensor([-height, -height, height, height]) / 2
    corners = torch.stack([x, y], dim=1).double()
    here = _moved(corners, backwards)
    steps = [
        (_moved(corners + step, backwards) - here).norm(dim=2).amax(dim=1)
        for step in torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    ]
    return torch.maximum(*steps).sub(_NEGLIGIBLE).ceil().clamp(1, MAX_SUPERSAMPLING).long()


def _moved(points: Tensor, maps: Tensor) -> Tensor:
    """Points (N, 2) under each of (B, 3, 3), (B, N, 2)."""
    homogeneous = F.pad(points, (0, 1), value=1.0) @ maps.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def _grid(backwards: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """Where to look for each place of the new images, (B, count H, count W, 2), in halves of the sides."""
    height, width = size
    y, x = (
        (torch.arange(count * side, dtype=torch.float64) + 0.5) / count - side / 2 for side in (height, width)
    )  # centres of the places, in pixels from the image's centre
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    found = _moved(points, backwards) * (2 / torch.tensor([width, height], dtype=torch.float64))
    return found.reshape(len(backwards), count * height, count * width, 2)
