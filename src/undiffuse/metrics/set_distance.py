"""Registry of distances between two sets of features.

A Fréchet distance needs more images than features, which are a thousand and more for photographs; a kernel distance
needs ten images. The values of the two are not comparable. Listing the names imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from undiffuse.errors import UsageError
from undiffuse.observer import note
from undiffuse.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.metrics.statistics import GroupedStatistics

#: Groups of the Fréchet distance's jackknife.
GROUPS = 10
DistanceName = Literal["frechet", "kernel"]
SET_DISTANCES: dict[str, str] = {
    "frechet": "undiffuse.metrics.set_distance:FrechetSetDistance",
    "kernel": "undiffuse.metrics.set_distance:KernelSetDistance",
}


class DistanceEstimate(NamedTuple):
    """A distance with its standard error over both sets of images, and the sizes of the sets."""

    value: float
    standard_error: float
    num_a: int
    num_b: int


class SetDistance(ABC):
    """A distance between two sets of features, each given as a summary that is updated chunk by chunk.

    Attributes:
        name: the row of ``SET_DISTANCES``.
        label: its name in charts and tables.
        short_label: a short name for narrow charts.
        positive: whether it is never below 0, so that it can be plotted on a logarithmic axis.
        formula, source: for reports.
    """

    name: ClassVar[DistanceName]
    label: ClassVar[str]
    short_label: ClassVar[str]
    positive: ClassVar[bool]
    formula: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def min_images(self, dim: int) -> int:
        """Number of images needed on each side for ``dim`` features."""

    @abstractmethod
    def check(self, count: int, dim: int, other: str | None = None) -> None:
        """Check that there are enough images.

        Args:
            count: number of images of the smaller side.
            dim: number of features.
            other: the option for a distance that needs fewer images, for the message.
        Raises:
            UsageError: with the number of images needed.
        """

    @abstractmethod
    def summary(self, dim: int) -> Any:
        """An empty summary of ``dim`` features, with a method ``update`` for rows (N, D)."""

    @abstractmethod
    def between(self, a: Any, b: Any) -> DistanceEstimate:
        """The distance of two summaries.

        Raises:
            UsageError: too few images, or different numbers of features.
        """

    def of(self, features: Tensor) -> Any:
        """The summary of ``features`` (N, D)."""
        summary = self.summary(features.shape[1])
        summary.update(features)
        return summary


class FrechetSetDistance(SetDistance):
    """The squared Fréchet distance of ``metrics.distances``."""

    name = "frechet"
    label, short_label, positive = "Fréchet distance", "Fréchet", True
    formula = "d^2 = |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)"
    source = "metrics.distances.frechet_estimate"

    def min_images(self, dim: int) -> int:
        return max(dim + 1, 2 * GROUPS)

    def check(self, count: int, dim: int, other: str | None = None) -> None:
        from undiffuse.metrics.distances import check_enough

        try:
            check_enough(count, dim, GROUPS)
        except UsageError as error:
            raise UsageError(f"{error}, or use {other}" if other else str(error)) from None

    def summary(self, dim: int) -> GroupedStatistics:
        from undiffuse.metrics.statistics import GroupedStatistics

        return GroupedStatistics(dim, GROUPS)

    def between(self, a: GroupedStatistics, b: GroupedStatistics) -> DistanceEstimate:
        from undiffuse.metrics.distances import frechet_estimate

        found = frechet_estimate(a, b)
        return DistanceEstimate(found.value, found.standard_error, found.num_a, found.num_b)


class _Rows:
    """A summary that stores all features."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Append rows (N, D)."""
        self._chunks.append(features)

    @property
    def all(self) -> Tensor:
        """All rows (N, D)."""
        import torch

        return torch.cat(self._chunks)


class KernelSetDistance(SetDistance):
    """The unbiased kernel distance of ``metrics.kernel``."""

    name = "kernel"
    label, short_label, positive = "kernel distance", "kernel", False
    formula = "MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b),  k(x, y) = (x.y / D + 1)^3"
    source = "metrics.kernel.kernel_distance"

    def min_images(self, dim: int) -> int:
        from undiffuse.metrics.kernel import MINIMUM

        return MINIMUM

    def check(self, count: int, dim: int, other: str | None = None) -> None:
        if count < (needed := self.min_images(dim)):
            raise UsageError(
                f"a kernel distance needs at least {needed} images on each side, got {count}; generate more"
            )

    def summary(self, dim: int) -> _Rows:
        return _Rows()

    def between(self, a: _Rows, b: _Rows) -> DistanceEstimate:
        from undiffuse.metrics.kernel import kernel_distance

        found = kernel_distance(a.all, b.all)
        return DistanceEstimate(found.value, found.standard_error, found.num_a, found.num_b)


def fitting_distance(count: int, dim: int) -> SetDistance:
    """The Fréchet distance, or the kernel distance where there are too few images for it, with a note.

    Args:
        count: number of images of the smaller side.
        dim: number of features.
    """
    frechet, kernel = FrechetSetDistance(), KernelSetDistance()
    if count >= (needed := frechet.min_images(dim)):
        return frechet
    if count >= kernel.min_images(dim):
        note(
            f"a Fréchet distance over {dim:,} features needs {needed:,} images on each side, there are {count:,}: the "
            "kernel distance is measured instead, whose values cannot be compared with it"
        )
    return kernel


def set_distance(name: str) -> SetDistance:
    """The distance of that name.

    Raises:
        UsageError: unknown name.
    """
    distance: SetDistance = lookup(SET_DISTANCES, name, "distance")()
    return distance
