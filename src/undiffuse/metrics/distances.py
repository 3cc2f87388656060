"""The Fréchet distance between two sets of features, each approximated by a Gaussian.

    d^2 = |m_a - m_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2          (Dowson & Landau 1982)

The last trace is the sum of the singular values of A^1/2 B^1/2. Both roots come from symmetric eigendecompositions, so
all values are real and singular covariances lose no accuracy. As is common, the square d^2 is reported.

The estimate from N images is biased upwards by about a constant over N (Chong & Forsyth 2020): it decreases with the
number of images for fixed distributions, so values are comparable only at equal counts. ``frechet_estimate`` therefore
reports the counts, a jackknife estimate of the bias, and a standard error.

On disjoint subsets of MNIST's training set (true distance 0, 96 features of the small classifier) the value fell from
0.67 with 250 images per side to 0.04 with 5,000; minus the jackknife's bias it was 0 within its error at each count.
The standard error is conservative: 1.2 to 1.8 times the observed standard deviation over repetitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.statistics import GaussianStatistics, GroupedStatistics


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The squared Fréchet distance d^2 >= 0 of two sets of features, symmetric, in float64.

    Raises:
        UsageError: different numbers of features, or fewer than two images on a side.
    """
    _check_pair(a.dim, b.dim)
    return _squared_distance(a, square_root(a.covariance), b, square_root(b.covariance))


def _check_pair(dim_a: int, dim_b: int) -> None:
    if dim_a != dim_b:
        raise UsageError(
            f"cannot compare {dim_a} features with {dim_b}; take the same extractor and image size on both sides"
        )


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root (D, D) of a covariance; eigenvalues below 0 by rounding are set to 0."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _squared_distance(a: GaussianStatistics, root_a: Tensor, b: GaussianStatistics, root_b: Tensor) -> float:
    overlap = torch.linalg.svdvals(root_a @ root_b).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


@dataclass(frozen=True)
class FrechetEstimate:
    """A squared Fréchet distance with its estimated error and bias.

    Attributes:
        value: d^2 from all images, the usual (biased) estimate.
        standard_error: of ``value``, over both sets of images, by a delete-one-group jackknife.
        bias: of ``value`` relative to its limit for many images, by the same jackknife.
        num_a, num_b: number of images on each side.
        dim: number of features.
        num_groups: groups of the jackknife.
    """

    value: float
    standard_error: float
    bias: float
    num_a: int
    num_b: int
    dim: int
    num_groups: int

    @property
    def corrected(self) -> float:
        """``value`` minus its estimated bias; may be below 0 by chance if the distributions are equal."""
        return self.value - self.bias

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers, with a description of the protocol."""
        note = (
            f"squared Fréchet distance of Gaussians on {self.dim} features; biased upwards by about 1/N, compare at "
            f"equal counts only; standard error and bias by a jackknife over {self.num_groups} groups per side"
        )
        return {**asdict(self), "corrected": self.corrected, "protocol": note}


def check_enough(count: int, dim: int, num_groups: int = 2) -> None:
    """Check that there are enough images for a covariance of full rank.

    Raises:
        UsageError: fewer than D + 1 images, or fewer than two per group, with the number needed.
    """
    needed = max(dim + 1, 2 * num_groups)
    if count < needed:
        raise UsageError(
            f"a Fréchet distance on {dim} features needs at least {needed} images on each side, got {count}; "
            "generate more, or take features of fewer dimensions"
        )


def frechet_estimate(a: GroupedStatistics, b: GroupedStatistics) -> FrechetEstimate:
    """The squared Fréchet distance with its standard error and bias, from images divided into groups.

    Each group of each side is left out once: with theta the value of all images, theta_g the values without group g and
    theta-bar their mean, a side of G groups contributes (G - 1) (theta-bar - theta) to the bias and
    (G - 1) / G sum (theta_g - theta-bar)^2 to the variance (Tukey 1958; Efron & Stein 1981).

    Raises:
        UsageError: different numbers of features, or too few images, with the number needed.
    """
    _check_pair(a.dim, b.dim)
    for side in (a, b):
        check_enough(side.count, side.dim, len(side.groups))
        _check_groups(side)
    total_a, total_b = a.total, b.total
    root_a, root_b = square_root(total_a.covariance), square_root(total_b.covariance)
    value = _squared_distance(total_a, root_a, total_b, root_b)

    def distance_to(fixed: GaussianStatistics, root: Tensor) -> Callable[[GaussianStatistics], float]:
        return lambda part: _squared_distance(part, square_root(part.covariance), fixed, root)

    bias_a, variance_a = _jackknife(a, distance_to(total_b, root_b), value)
    bias_b, variance_b = _jackknife(b, distance_to(total_a, root_a), value)
    return FrechetEstimate(
        value=value,
        standard_error=(variance_a + variance_b) ** 0.5,
        bias=bias_a + bias_b,
        num_a=a.count,
        num_b=b.count,
        dim=a.dim,
        num_groups=len(a.groups),
    )


def _check_groups(side: GroupedStatistics) -> None:
    """Check that no group is nearly empty (by unusual image numbers): the jackknife's error would be too small."""
    counts = [group.count for group in side.groups]
    if min(counts) < 2:
        raise UsageError(
            f"a jackknife needs at least 2 images in each of its {len(counts)} groups by number, got {counts}; "
            "number the images one after another"
        )


def _jackknife(
    statistics: GroupedStatistics, distance: Callable[[GaussianStatistics], float], value: float
) -> tuple[float, float]:
    """The contribution of one side to the bias and the variance."""
    values = torch.tensor([distance(part) for part in statistics.leave_one_out()], dtype=torch.float64)
    factor = len(values) - 1
    mean = float(values.mean())
    return factor * (mean - value), factor * float((values - mean).square().mean())
