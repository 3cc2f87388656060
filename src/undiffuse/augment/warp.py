"""Projective warping of images: one map per image, resampled once.

Values are interpolated bicubically, which is exact for translations by whole pixels. Where the map shrinks the image,
each output pixel is the mean of several sample points (supersampling), which prevents aliasing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

#: Maximum number of sample points per pixel along each side: enough to shrink to a quarter.
MAX_SUPERSAMPLING = 4
#: Shrinking by less than this needs only one sample point.
_NEGLIGIBLE = 0.25
_PADDING = {"reflect": "reflection", "edge": "border"}


def warp(x: Tensor, maps: Tensor, padding: Literal["reflect", "edge"] = "reflect") -> Tensor:
    """Warp images, each independently of the others.

    Args:
        x: (B, C, H, W) float; differentiable.
        maps: (B, 3, 3) float64 on the CPU, invertible, from points in ``x`` to points in the result, see ``geometry``.
        padding: values beyond the border: reflection, or the edge pixel.
    Returns:
        (B, C, H, W); bicubic interpolation may exceed the range of ``x`` by a few percent.
    """
    size = (x.shape[-2], x.shape[-1])
    backwards = torch.linalg.inv(maps)
    factors = supersampling_factor(backwards, size)
    out = x
    for count in sorted(set(factors.tolist())):
        rows = (factors == count).nonzero()[:, 0]
        grid = _grid(backwards[rows], size, count).to(x)
        rows = rows.to(x.device)
        fine = F.grid_sample(x[rows], grid, mode="bicubic", padding_mode=_PADDING[padding], align_corners=False)
        out = out.index_copy(0, rows, F.avg_pool2d(fine, count) if count > 1 else fine)
    return out


def supersampling_factor(backwards: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,) int64: sample points along each side of an output pixel, so that no input pixel is skipped.

    It is the largest distance in the input between neighbouring output pixels, which occurs at a corner.
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
    """Apply maps (B, 3, 3) to points (N, 2), giving (B, N, 2)."""
    homogeneous = F.pad(points, (0, 1), value=1.0) @ maps.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def _grid(backwards: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """The sampling grid for ``F.grid_sample``, (B, count H, count W, 2), in units of half the sides."""
    height, width = size
    y, x = (
        (torch.arange(count * side, dtype=torch.float64) + 0.5) / count - side / 2 for side in (height, width)
    )  # sample points, in pixels from the image's centre
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    found = _moved(points, backwards) * (2 / torch.tensor([width, height], dtype=torch.float64))
    return found.reshape(len(backwards), count * height, count * width, 2)
