"""How far one set of features lies from another, by name: for whatever lets its reader choose.

A Fréchet distance needs more images than there are features, and photographs are looked at through a thousand and
more; a kernel distance needs ten. The values of the two do not compare. Listing the names imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from undiffuse.errors import UsageError
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
    """A distance with its standard error over both sets of images, and their sizes."""

    value: float
    standard_error: float
    num_a: int
    num_b: int


class SetDistance(ABC):
    """A distance between two sets of features, each kept as a summary that takes them in chunk by chunk.

    Attributes:
        name: the row of ``SET_DISTANCES``.
        label: its name in charts and tables.
        short_label: the same where there is little room.
        positive: whether it is never below 0, so that a logarithm of it can be drawn.
        formula, source: what a page about it says.
    """

    name: ClassVar[DistanceName]
    label: ClassVar[str]
    short_label: ClassVar[str]
    positive: ClassVar[bool]
    formula: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def min_images(self, dim: int) -> int:
        """Images that are needed on each side for ``dim`` features."""

    @abstractmethod
    def check(self, count: int, dim: int, other: str | None = None) -> None:
        """Refuse too few images.

        Args:
            count: the fewer of both sides.
            dim: number of features.
            other: how to ask for a distance that needs fewer, where there is one.
        Raises:
            UsageError: says how many are needed.
        """

    @abstractmethod
    def summary(self, dim: int) -> Any:
        """An empty set of ``dim`` features: its ``update`` takes rows (N, D)."""

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
            raise UsageError(f"{error}, or say {other}" if other else str(error)) from None

    def summary(self, dim: int) -> GroupedStatistics:
        from undiffuse.metrics.statistics import GroupedStatistics

        return GroupedStatistics(dim, GROUPS)

    def between(self, a: GroupedStatistics, b: GroupedStatistics) -> DistanceEstimate:
        from undiffuse.metrics.distances import frechet_estimate

        found = frechet_estimate(a, b)
        return DistanceEstimate(found.value, found.standard_error, found.num_a, found.num_b)


class _Rows:
    """Features as they came."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Keep these rows (N, D)."""
        self._chunks.append(features)

    @property
    def all(self) -> Tensor:
        """Every row (N, D)."""
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
            raise UsageError(f"a kernel distance needs at least {needed} images on each side, got {count}; make more")

    def summary(self, dim: int) -> _Rows:
        return _Rows()

    def between(self, a: _Rows, b: _Rows) -> DistanceEstimate:
        from undiffuse.metrics.kernel import kernel_distance

        found = kernel_distance(a.all, b.all)
        return DistanceEstimate(found.value, found.standard_error, found.num_a, found.num_b)


def set_distance(name: str) -> SetDistance:
    """The distance of that row.

    Raises:
        UsageError: unknown name.
    """
    distance: SetDistance = lookup(SET_DISTANCES, name, "distance")()
    return distance
