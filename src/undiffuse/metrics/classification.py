"""A classifier's predictions on a set of images: their confidence, and the balance of the classes.

The fraction of confident images is a proxy for legibility and not an objective: real images do not reach 1 either (see
the model card of the weights), and a generator must not be trained or tuned on it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError

CONFIDENT = 0.9


def check_probabilities(probabilities: Tensor, num_classes: int) -> Tensor:
    """``probabilities`` as float64 (B, K) on the CPU.

    Raises:
        UsageError: another number of classes, NaN, or rows that are not probabilities.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != num_classes:
        raise UsageError(f"probabilities must have shape (B, {num_classes}), got {tuple(probabilities.shape)}")
    probabilities = probabilities.detach().to("cpu", torch.float64)
    sums = probabilities.sum(1)
    if not bool(((sums - 1).abs() < 1e-3).all()) or bool((probabilities < 0).any()):
        raise UsageError("rows of probabilities must be non-negative and sum to 1 (logits need a softmax first)")
    return probabilities


class ClassAccumulator:
    """Counts over class probabilities, batch by batch; memory is the number of classes.

    Args:
        num_classes: K.
        confident: lowest probability at which an image counts as confident.
    Example:
        >>> accumulator = ClassAccumulator.of(torch.tensor([[0.95, 0.05], [0.2, 0.8]]))
        >>> accumulator.confident_share, accumulator.histogram, accumulator.classes_covered
        (0.5, [1, 1], 2)
    """

    def __init__(self, num_classes: int = 10, confident: float = CONFIDENT) -> None:
        if num_classes < 2 or not 0 < confident <= 1:
            raise UsageError(f"expected num_classes >= 2 and 0 < confident <= 1, got {num_classes} and {confident}")
        self.confident = confident
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.confident_counts = torch.zeros(num_classes, dtype=torch.int64)

    @classmethod
    def of(cls, probabilities: Tensor, confident: float = CONFIDENT) -> ClassAccumulator:
        """An accumulator of ``probabilities`` (B, K)."""
        if probabilities.ndim != 2:
            raise UsageError(f"probabilities must have shape (B, K), got {tuple(probabilities.shape)}")
        accumulator = cls(probabilities.shape[1], confident)
        accumulator.update(probabilities)
        return accumulator

    def update(self, probabilities: Tensor) -> None:
        """Add class probabilities (B, K); B may be 0.

        Raises:
            UsageError: another number of classes, NaN, or rows that are not probabilities.
        """
        num_classes = len(self.counts)
        probabilities = check_probabilities(probabilities, num_classes)
        if len(probabilities) == 0:
            return
        best, label = probabilities.max(1)
        self.counts += torch.bincount(label, minlength=num_classes)
        self.confident_counts += torch.bincount(label[best >= self.confident], minlength=num_classes)

    def merge(self, other: ClassAccumulator) -> ClassAccumulator:
        """The accumulator of both sets of images; neither operand changes."""
        if len(other.counts) != len(self.counts) or other.confident != self.confident:
            raise UsageError("cannot merge accumulators of different classes or confidence levels")
        merged = ClassAccumulator(len(self.counts), self.confident)
        merged.counts = self.counts + other.counts
        merged.confident_counts = self.confident_counts + other.confident_counts
        return merged

    def tensors(self) -> dict[str, Tensor]:
        """All counts by name, see ``from_tensors``."""
        confident = torch.tensor(self.confident, dtype=torch.float64)
        return {"counts": self.counts, "confident_counts": self.confident_counts, "confident": confident}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ClassAccumulator:
        """The accumulator from the output of ``tensors()``."""
        accumulator = cls(len(tensors["counts"]), float(tensors["confident"]))
        accumulator.counts = tensors["counts"].clone()
        accumulator.confident_counts = tensors["confident_counts"].clone()
        return accumulator

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def histogram(self) -> list[int]:
        """Images of each class, confident or not."""
        return [int(count) for count in self.counts]

    @property
    def confident_share(self) -> float:
        """Fraction of images whose best class has at least the probability ``confident``."""
        return int(self.confident_counts.sum()) / self._count_checked()

    @property
    def confident_share_error(self) -> float:
        """Binomial standard error of ``confident_share``."""
        share = self.confident_share
        return math.sqrt(share * (1 - share) / self.count)

    @property
    def balance(self) -> float:
        """Entropy of the histogram over log K: 1 if all classes are equally frequent, 0 if there is only one."""
        share = self.counts.double() / self._count_checked()
        return float(-torch.special.xlogy(share, share).sum()) / math.log(len(self.counts)) + 0.0

    @property
    def classes_covered(self) -> int:
        """Number of classes with at least one image."""
        return int((self.counts > 0).sum())

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers."""
        return {
            "count": self.count,
            "confident_threshold": self.confident,
            "confident_share": self.confident_share,
            "confident_share_error": self.confident_share_error,
            "histogram": self.histogram,
            "confident_histogram": [int(count) for count in self.confident_counts],
            "balance": self.balance,
            "classes_covered": self.classes_covered,
        }

    def _count_checked(self) -> int:
        if self.count == 0:
            raise UsageError("class shares need at least 1 image, got 0")
        return self.count
