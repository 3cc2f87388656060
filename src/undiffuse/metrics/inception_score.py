"""The inception score: high if the class of each image is certain and the classes of the set are diverse.

    IS = exp( E_x KL( p(y|x) || p(y) ) ) = exp( H(p(y)) - E_x H(p(y|x)) ),   1 <= IS <= K

(Salimans et al. 2016, arXiv:1606.03498). Two sums suffice, sum p(y|x) and sum p(y|x) log p(y|x), so parts can merge.
The estimate from N images is biased downwards, by a fraction of about (K - 1) / (2 N) for certain and equally frequent
classes: compare at equal counts. It does not use real images, and a set with one perfect image per class reaches K.
With a classifier other than ImageNet's Inception-v3 it refers to that classifier's classes and is not comparable with
published values. The standard error was 1.1 to 1.3 times the standard deviation over disjoint subsets of MNIST.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.classification import check_probabilities
from undiffuse.metrics.reservoir import check_numbers
from undiffuse.metrics.statistics import group_of

NUM_SPLITS = 10


class InceptionScoreAccumulator:
    """Sums over class probabilities in ``num_splits`` splits by number; memory is num_splits * K.

    Args:
        num_classes: K.
        num_splits: of the usual protocol and of the jackknife.
    Example:
        >>> accumulator = InceptionScoreAccumulator(2)
        >>> accumulator.update(torch.eye(2).repeat(50, 1), torch.arange(100))
        >>> round(accumulator.score, 6)
        2.0
    """

    def __init__(self, num_classes: int = 10, num_splits: int = NUM_SPLITS) -> None:
        if num_classes < 2 or num_splits < 2:
            raise UsageError(f"expected num_classes >= 2 and num_splits >= 2, got {num_classes} and {num_splits}")
        self.counts = torch.zeros(num_splits, dtype=torch.int64)
        self.probability_sums = torch.zeros(num_splits, num_classes, dtype=torch.float64)
        self.negative_entropy_sums = torch.zeros(num_splits, dtype=torch.float64)

    @classmethod
    def of(cls, probabilities: Tensor, numbers: Tensor | None = None) -> InceptionScoreAccumulator:
        """An accumulator of ``probabilities`` (N, K), numbered from 0 by default."""
        if probabilities.ndim != 2:
            raise UsageError(f"probabilities must have shape (B, K), got {tuple(probabilities.shape)}")
        accumulator = cls(probabilities.shape[1])
        accumulator.update(probabilities, torch.arange(len(probabilities)) if numbers is None else numbers)
        return accumulator

    def update(self, probabilities: Tensor, numbers: Tensor) -> None:
        """Add class probabilities (B, K) of the images with these ``numbers`` (B,); B may be 0.

        Raises:
            UsageError: another number of classes, NaN, rows that are not probabilities, or invalid numbers.
        """
        num_splits, num_classes = self.probability_sums.shape
        probabilities = check_probabilities(probabilities, num_classes)
        split = group_of(check_numbers(numbers, len(probabilities)), num_splits)
        self.counts += torch.bincount(split, minlength=num_splits)
        self.probability_sums.index_add_(0, split, probabilities)
        self.negative_entropy_sums.index_add_(0, split, torch.special.xlogy(probabilities, probabilities).sum(1))

    def merge(self, other: InceptionScoreAccumulator) -> InceptionScoreAccumulator:
        """The accumulator of both sets of images; neither operand changes."""
        if other.probability_sums.shape != self.probability_sums.shape:
            raise UsageError("cannot merge score accumulators of different classes or splits")
        num_splits, num_classes = self.probability_sums.shape
        merged = InceptionScoreAccumulator(num_classes, num_splits)
        merged.counts = self.counts + other.counts
        merged.probability_sums = self.probability_sums + other.probability_sums
        merged.negative_entropy_sums = self.negative_entropy_sums + other.negative_entropy_sums
        return merged

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def score(self) -> float:
        """The inception score of all images at once.

        Raises:
            UsageError: fewer than two images per split, with the number needed.
        """
        self._check_enough()
        return _score(*self._sums())

    @property
    def standard_error(self) -> float:
        """Standard error of ``score``, by a jackknife that leaves out one split at a time."""
        self._check_enough()
        totals, parts = self._sums(), zip(self.counts, self.probability_sums, self.negative_entropy_sums, strict=True)
        scores = [_score(*(total - part for total, part in zip(totals, split, strict=True))) for split in parts]
        series = torch.tensor(scores, dtype=torch.float64)
        return math.sqrt(float((series - series.mean()).square().mean()) * (len(series) - 1))

    @property
    def split_scores(self) -> list[float]:
        """The score of each split."""
        self._check_enough()
        parts = zip(self.counts, self.probability_sums, self.negative_entropy_sums, strict=True)
        return [_score(*split) for split in parts]

    @property
    def split_mean(self) -> float:
        """Mean over the splits, as usually published: below ``score``, since each split is smaller."""
        return sum(self.split_scores) / len(self.counts)

    @property
    def split_std(self) -> float:
        """Standard deviation over the splits (with the divisor num_splits), as usually published."""
        mean = self.split_mean
        return math.sqrt(sum((score - mean) ** 2 for score in self.split_scores) / len(self.counts))

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers, with a description of the protocol."""
        num_splits, num_classes = self.probability_sums.shape
        note = (
            f"exp of the mutual information of image and class, over the extractor's {num_classes} classes; biased "
            f"downwards by about K/2N, compare at equal counts only; standard error by a jackknife over {num_splits} "
            "splits by number"
        )
        return {
            "value": self.score,
            "standard_error": self.standard_error,
            "split_mean": self.split_mean,
            "split_std": self.split_std,
            "num_splits": num_splits,
            "num_classes": num_classes,
            "count": self.count,
            "protocol": note,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name, see ``from_tensors``."""
        return {
            "counts": self.counts,
            "probability_sums": self.probability_sums,
            "negative_entropy_sums": self.negative_entropy_sums,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> InceptionScoreAccumulator:
        """The accumulator from the output of ``tensors()``."""
        num_splits, num_classes = tensors["probability_sums"].shape
        accumulator = cls(num_classes, num_splits)
        accumulator.counts = tensors["counts"].clone()
        accumulator.probability_sums = tensors["probability_sums"].clone()
        accumulator.negative_entropy_sums = tensors["negative_entropy_sums"].clone()
        return accumulator

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.counts.sum(), self.probability_sums.sum(0), self.negative_entropy_sums.sum()

    def _check_enough(self) -> None:
        needed = 2 * len(self.counts)
        if self.count < needed:
            raise UsageError(f"an inception score needs at least {needed} images, got {self.count}; generate more")
        if int(self.counts.min()) == 0:
            raise UsageError(
                f"an inception score needs images in each of its {len(self.counts)} splits by number, got "
                f"{self.counts.tolist()}; number the images one after another"
            )


def _score(count: Tensor, probability_sum: Tensor, negative_entropy_sum: Tensor) -> float:
    """exp( H(mean p) - mean H(p) ) from the sums over ``count`` images."""
    marginal = probability_sum / count
    entropy = -torch.special.xlogy(marginal, marginal).sum()
    return float(torch.exp(entropy + negative_entropy_sum / count))
