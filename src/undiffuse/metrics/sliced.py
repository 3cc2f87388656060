"""The sliced Wasserstein distance between two sets of points: sorted projections, compared along many directions.

    SW(a, b) = mean over unit directions u of W_2(a u, b u)

In one dimension W_2 is the L2 distance of the quantile functions, so a sort is enough (Bonneel et al. 2015, "Sliced and
Radon Wasserstein Barycenters of Measures"). Here the mean is over W_2 and not over its square, so the value is in the
units of the data. For a set in the plane and its copy shifted by d it is 2 |d| / pi.

For two finite samples of one distribution it is above 0 and decreases with the number of points: compare it with the
value of two real sets of the same size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.errors import UsageError

NUM_DIRECTIONS = 128
NUM_GROUPS = 10


def directions(dim: int, num: int = NUM_DIRECTIONS, seed: int = 0) -> Tensor:
    """``num`` unit vectors (num, D) in float64, uniform over the sphere, determined by ``seed``."""
    normal = torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = normal / normal.norm(dim=1, keepdim=True)
    return unit


def sliced_wasserstein(a: Tensor, b: Tensor, num_directions: int = NUM_DIRECTIONS, seed: int = 0) -> float:
    """The mean one-dimensional W_2 of points (N, D) and (M, D), in the units of the data, symmetric.

    Raises:
        UsageError: an empty set, points of different dimensions, NaN or infinite values.
    """
    _check_points(a, b)
    along = directions(a.shape[1], num_directions, seed).T
    sorted_a, sorted_b = ((points.double() @ along).sort(0).values for points in (a, b))
    levels = _levels(len(a), len(b))
    share = levels.diff(prepend=levels.new_zeros(1)).double() / (len(a) * len(b))
    difference = sorted_a[(levels - 1) // len(b)] - sorted_b[(levels - 1) // len(a)]
    return float((share[:, None] * difference.square()).sum(0).sqrt().mean())


def sliced_wasserstein_error(a: Tensor, b: Tensor) -> float | None:
    """Its standard error over both sets of points, by a jackknife over ten groups per side.

    ``None`` if a side has fewer than two points per group.
    """
    if min(len(a), len(b)) < 2 * NUM_GROUPS:
        return None
    without_a = [sliced_wasserstein(part, b) for part in _leave_one_out(a)]
    without_b = [sliced_wasserstein(a, part) for part in _leave_one_out(b)]
    return math.sqrt(_jackknife_variance(without_a) + _jackknife_variance(without_b))


def _levels(num_a: int, num_b: int) -> Tensor:
    """The steps of both quantile functions, in units of 1 / (num_a num_b): integers, so that equal steps coincide."""
    steps = torch.cat([torch.arange(1, num_a + 1) * num_b, torch.arange(1, num_b + 1) * num_a]).sort().values
    return steps[steps.diff(prepend=steps.new_zeros(1)) > 0]


def _leave_one_out(points: Tensor) -> list[Tensor]:
    group = torch.arange(len(points)) % NUM_GROUPS
    return [points[group != left_out] for left_out in range(NUM_GROUPS)]


def _jackknife_variance(values: list[float]) -> float:
    series = torch.tensor(values, dtype=torch.float64)
    return float((series - series.mean()).square().mean()) * (len(series) - 1)


def _check_points(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:] or 0 in (*a.shape, *b.shape):
        raise UsageError(f"expected two non-empty sets of points (N, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    for points in (a, b):
        bad = int((~torch.isfinite(points)).any(1).sum())
        if bad:
            raise UsageError(f"{bad} of {len(points)} points are NaN or infinite")
