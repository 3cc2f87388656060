"""Mean and covariance of feature vectors, accumulated over batches and merged in any order.

With n rows, mean m and scatter S = sum (x - m)(x - m)^T, two parts combine exactly (Chan, Golub & LeVeque 1979):

    n = n_a + n_b,   d = m_b - m_a,   m = m_a + d n_b / n,   S = S_a + S_b + d d^T n_a n_b / n

so memory is D^2 for any number of images, and the result does not depend on how they are split into batches or workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from undiffuse.errors import UsageError

#: Maximum size of the covariances of one set of images.
MAX_BYTES = 4 * 2**30


def check_features(features: Tensor, dim: int | None = None) -> Tensor:
    """``features`` as float64 (N, D) on the CPU.

    Raises:
        UsageError: not two axes, not ``dim`` columns, or NaN or infinite values.
    """
    if features.ndim != 2 or (dim is not None and features.shape[1] != dim):
        expected = "(N, D)" if dim is None else f"(N, {dim})"
        raise UsageError(
            f"features must have shape {expected}, got {tuple(features.shape)}; "
            "the same extractor and image size must be used on both sides"
        )
    features = features.detach().to("cpu", torch.float64)
    bad = int((~torch.isfinite(features)).any(1).sum())
    if bad:
        raise UsageError(f"{bad} of {len(features)} feature rows hold NaN or infinite values; check the images")
    return features


def group_of(numbers: Tensor, num_groups: int) -> Tensor:
    """The group (N,) of each row by its number (N,): (i + i // num_groups) mod ``num_groups``."""
    cycle = torch.div(numbers, num_groups, rounding_mode="floor")
    return (numbers % num_groups + cycle % num_groups) % num_groups  # the direct sum could overflow int64


def check_size(dim: int, num_groups: int = 1) -> None:
    """Check the size of ``num_groups`` matrices of D^2 float64 numbers.

    Raises:
        UsageError: they would take more than 4 GiB.
    """
    needed = num_groups * dim**2 * 8
    if needed > MAX_BYTES:
        raise UsageError(
            f"{dim:,} features per image need covariances of {needed / 2**30:,.1f} GiB, at most "
            f"{MAX_BYTES // 2**30} GiB are allowed; take features of fewer numbers, such as 'efficientnet' or "
            "'inception', or smaller images"
        )


class GaussianStatistics:
    """Count, mean (D,) and scatter (D, D) of the rows added so far, in float64.

    Args:
        dim: number of features D.
    Example:
        >>> statistics = GaussianStatistics.of(torch.tensor([[0.0], [2.0]]))
        >>> statistics.count, float(statistics.mean), float(statistics.covariance)
        (2, 1.0, 2.0)
    """

    def __init__(self, dim: int) -> None:
        check_size(dim)
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor) -> GaussianStatistics:
        """The statistics of ``features`` (N, D) in one pass."""
        features = check_features(features)
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    @classmethod
    def from_moments(cls, count: int, mean: Tensor, covariance: Tensor) -> GaussianStatistics:
        """Statistics with a known mean (D,) and covariance (D, D), as if ``count`` >= 2 rows had been seen."""
        if count < 2 or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UsageError(
                f"expected count >= 2, mean (D,) and covariance (D, D), got {count}, {tuple(mean.shape)}, "
                f"{tuple(covariance.shape)}"
            )
        statistics = cls(len(mean))
        statistics.count, statistics.mean = count, check_features(mean[None])[0]
        statistics.scatter = check_features(covariance) * (count - 1)
        return statistics

    @property
    def dim(self) -> int:
        """Number of features D."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D), scatter / (count - 1).

        Raises:
            UsageError: fewer than two rows were seen.
        """
        if self.count < 2:
            raise UsageError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Add the rows of ``features`` (N, D); N may be 0."""
        features = check_features(features, self.dim)
        if len(features):
            mean = features.mean(0)
            centred = features - mean
            self._absorb(len(features), mean, centred.T @ centred)

    def merge(self, other: GaussianStatistics) -> GaussianStatistics:
        """The statistics of both sets of rows; neither operand changes."""
        if other.dim != self.dim:
            raise UsageError(f"cannot merge statistics of {self.dim} and {other.dim} features")
        merged = GaussianStatistics(self.dim)
        for part in (self, other):
            merged._absorb(part.count, part.mean, part.scatter)
        return merged

    def _absorb(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.scatter += scatter  # in place: with many features this is the largest tensor
        self.scatter.addr_(shift, shift, alpha=self.count * count / total)
        self.count = total


class GroupedStatistics:
    """Statistics of rows that are assigned to groups, as a jackknife needs; memory is num_groups * D^2.

    Row i belongs to group (i + i // num_groups) mod ``num_groups``, independent of the batches. Of ``num_groups``
    consecutive rows each group gets one, with a shift by one per cycle, since otherwise rows that cycle through the
    classes could put each class into its own group. With explicit numbers i, parts merged in any order equal one pass.

    Args:
        dim: number of features D.
        num_groups: number of groups, at least 2.
    """

    def __init__(self, dim: int, num_groups: int = 10) -> None:
        if num_groups < 2:
            raise UsageError(f"num_groups must be at least 2, got {num_groups}")
        check_size(dim, num_groups)
        self.groups = [GaussianStatistics(dim) for _ in range(num_groups)]

    @classmethod
    def of(cls, features: Tensor, num_groups: int = 10) -> GroupedStatistics:
        """The grouped statistics of ``features`` (N, D)."""
        features = check_features(features)
        statistics = cls(features.shape[1], num_groups)
        statistics.update(features)
        return statistics

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.groups[0].dim

    @property
    def count(self) -> int:
        """Number of rows in all groups."""
        return sum(group.count for group in self.groups)

    @property
    def total(self) -> GaussianStatistics:
        """The statistics of all groups together."""
        return merge_all(self.groups, self.dim)

    def update(self, features: Tensor, numbers: Tensor | None = None) -> None:
        """Add the rows of ``features`` (N, D) to the groups of their ``numbers`` (N,) int64.

        By default, rows are numbered consecutively over all batches.

        Raises:
            UsageError: features of another shape, or numbers that are not one int64 per row.
        """
        features = check_features(features, self.dim)
        if numbers is None:
            numbers = torch.arange(self.count, self.count + len(features))
        if numbers.shape != features.shape[:1] or numbers.dtype != torch.int64:
            raise UsageError(
                f"numbers must be int64, one per row of {tuple(features.shape)}, got {numbers.dtype} of "
                f"{tuple(numbers.shape)}"
            )
        member = group_of(numbers.cpu(), len(self.groups))
        for index, group in enumerate(self.groups):
            group.update(features[member == index])

    def merge(self, other: GroupedStatistics) -> GroupedStatistics:
        """Group by group, the statistics of both; neither operand changes."""
        if len(other.groups) != len(self.groups):
            raise UsageError(f"cannot merge statistics of {len(self.groups)} and {len(other.groups)} groups")
        merged = GroupedStatistics(self.dim, len(self.groups))
        merged.groups = [a.merge(b) for a, b in zip(self.groups, other.groups, strict=True)]
        return merged

    def tensors(self) -> dict[str, Tensor]:
        """Counts (G,), means (G, D) and scatters (G, D, D), see ``from_tensors``."""
        return {
            "counts": torch.tensor([group.count for group in self.groups]),
            "means": torch.stack([group.mean for group in self.groups]),
            "scatters": torch.stack([group.scatter for group in self.groups]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> GroupedStatistics:
        """The statistics from the output of ``tensors()``."""
        num_groups, dim = tensors["means"].shape
        statistics = cls(dim, num_groups)
        parts = zip(statistics.groups, tensors["counts"], tensors["means"], tensors["scatters"], strict=True)
        for group, count, mean, scatter in parts:
            group.count, group.mean, group.scatter = int(count), mean.clone(), scatter.clone()
        return statistics

    def leave_one_out(self) -> Iterator[GaussianStatistics]:
        """The statistics of all groups but one, for each group."""
        for left_out in range(len(self.groups)):
            yield merge_all((g for i, g in enumerate(self.groups) if i != left_out), self.dim)


def merge_all(parts: Iterable[GaussianStatistics], dim: int) -> GaussianStatistics:
    """The statistics of all parts together."""
    merged = GaussianStatistics(dim)
    for part in parts:
        merged = merged.merge(part)
    return merged
