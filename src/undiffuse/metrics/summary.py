"""Statistics of a set of images for all metrics, collected in one pass with bounded memory.

A summary holds sums (mean and covariance of features, class and score accumulators, levels) and two bounded samples
(features for distances between images, pixels for nearest neighbours). The contribution of an image depends only on the
image and its number, so parts of any size merged in any order give the same result: sums up to rounding, counts and
samples exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.classification import ClassAccumulator, check_probabilities
from undiffuse.metrics.colour import ColourAccumulator
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.inception_score import InceptionScoreAccumulator
from undiffuse.metrics.pixels import check_images
from undiffuse.metrics.reservoir import ReservoirSample, check_numbers
from undiffuse.metrics.statistics import GroupedStatistics, check_features

FEATURE_CAPACITY = 10_000
PIXEL_CAPACITY = 10_000
PIXEL_BYTES = 128 << 20
MAX_DIM = 4096  # ten covariances of this size take 1.3 GB


@dataclass
class _Parts:
    """The parts of a summary, created when the size of the images is known."""

    shape: tuple[int, int, int]
    statistics: GroupedStatistics
    features: ReservoirSample
    pixels: ReservoirSample
    colour: ColourAccumulator
    classes: ClassAccumulator | None
    score: InceptionScoreAccumulator | None


class ImageSetStatistics:
    """Statistics of a set of images, accumulated over batches and merged in any order.

    Args:
        extractor: maps images to features, and to class probabilities if it is a classifier.
    Example:
        >>> from undiffuse.metrics import load_features
        >>> summary = ImageSetStatistics(load_features("pixels"))
        >>> summary.update(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3))
        >>> summary.count, summary.statistics.dim, summary.colour.share_at_0
        (3, 16, 1.0)
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self._parts: _Parts | None = None

    @property
    def count(self) -> int:
        """Number of images seen."""
        return 0 if self._parts is None else self._parts.features.seen

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._require_parts().shape

    @property
    def statistics(self) -> GroupedStatistics:
        """Mean and covariance of the features, in groups by number."""
        return self._require_parts().statistics

    @property
    def features(self) -> ReservoirSample:
        """Feature rows, at most 10,000."""
        return self._require_parts().features

    @property
    def pixels(self) -> ReservoirSample:
        """uint8 images, at most 10,000 and at most 128 MiB."""
        return self._require_parts().pixels

    @property
    def colour(self) -> ColourAccumulator:
        """Histogram of the levels of all pixels."""
        return self._require_parts().colour

    @property
    def classes(self) -> ClassAccumulator | None:
        """Class counts, or None if the extractor has no classes."""
        return self._require_parts().classes

    @property
    def score(self) -> InceptionScoreAccumulator | None:
        """The inception score's sums, or None if the extractor has no classes."""
        return self._require_parts().score

    def update(self, images: Tensor, numbers: Tensor) -> None:
        """Add uint8 images (B, C, H, W) with their ``numbers`` (B,) int64, unique in the set; B may be 0.

        Features and class probabilities are computed once. The summary does not change if an error is raised.

        Raises:
            UsageError: not uint8, another size or number of channels than before, NaN features, numbers that repeat.
        """
        check_images(images)
        shape = _shape_of(images)
        if self._parts is not None:
            _check_same(self._parts.shape, shape)
        numbers = check_numbers(numbers, len(images))
        features, probabilities = _features_and_probabilities(self.extractor, images)
        parts = self._parts or _new_parts(shape, features, probabilities)
        parts.features.update(features, numbers)  # first, because it raises for numbers that are held already
        parts.pixels.update(images, numbers)
        parts.statistics.update(features, numbers)
        parts.colour.update(images)
        if parts.classes is not None and parts.score is not None and probabilities is not None:
            parts.classes.update(probabilities)
            parts.score.update(probabilities, numbers)
        self._parts = parts

    def merge(self, other: ImageSetStatistics) -> ImageSetStatistics:
        """The summary of both sets of images; neither operand changes.

        Raises:
            UsageError: other features or image sizes, or numbers that both hold.
        """
        if other.extractor.protocol() != self.extractor.protocol():
            raise UsageError(
                f"cannot merge summaries over features {self.extractor.name!r} and {other.extractor.name!r}; "
                "take the same extractor and weights"
            )
        if self._parts is None or other._parts is None:
            filled = other if self._parts is None else self
            return ImageSetStatistics.from_tensors(self.extractor, filled.tensors())
        _check_same(self._parts.shape, other._parts.shape)
        merged = ImageSetStatistics(self.extractor)
        merged._parts = _merged(self._parts, other._parts)
        return merged

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a safetensors file and ``from_tensors``."""
        parts = self._parts
        if parts is None:
            return {}
        named = {"shape": torch.tensor(parts.shape)}
        for name in _PART_TYPES:
            part = getattr(parts, name)
            if part is not None:
                named |= {f"{name}.{key}": value.contiguous() for key, value in part.tensors().items()}
        return named

    @classmethod
    def from_tensors(cls, extractor: FeatureExtractor, tensors: dict[str, Tensor]) -> ImageSetStatistics:
        """The summary from the output of ``tensors()``; ``extractor`` is the one that it was computed with.

        Raises:
            UsageError: tensors that are not a summary, or a summary of another number of features.
        """
        summary = cls(extractor)
        if tensors:
            try:
                parts = _parts_from(tensors)
            except (KeyError, ValueError, IndexError, RuntimeError) as error:
                raise UsageError(f"these tensors are not a summary of a set ({error}); compute it again") from error
            if extractor.dim not in (None, parts.statistics.dim):
                raise UsageError(
                    f"this summary holds {parts.statistics.dim} features, but {extractor.name!r} has {extractor.dim}; "
                    "load it with the extractor that it was computed with"
                )
            summary._parts = parts
        return summary

    def _require_parts(self) -> _Parts:
        if self._parts is None:
            raise UsageError("this summary has no images; update it first")
        return self._parts


_PART_TYPES: dict[str, Any] = {
    "statistics": GroupedStatistics,
    "features": ReservoirSample,
    "pixels": ReservoirSample,
    "colour": ColourAccumulator,
    "classes": ClassAccumulator,
    "score": InceptionScoreAccumulator,
}


def _shape_of(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _check_same(before: tuple[int, int, int], now: tuple[int, int, int]) -> None:
    if before != now:
        raise UsageError(
            f"images of one set must have one size and number of channels: {before} (C, H, W) before, now {now}; "
            "bring them to one size and to grey or colour first"
        )


def _features_and_probabilities(extractor: FeatureExtractor, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Both in one forward pass, checked for valid values."""
    if extractor.num_classes is None:
        features = extractor.features(images)
        check_features(features, extractor.dim)
        return features, None
    features, probabilities = extractor.features_and_probabilities(images)
    check_features(features, extractor.dim)
    return features, check_probabilities(probabilities, extractor.num_classes)


def _new_parts(shape: tuple[int, int, int], features: Tensor, probabilities: Tensor | None) -> _Parts:
    dim = features.shape[1]
    if dim > MAX_DIM:
        raise UsageError(
            f"a covariance of {dim} features is too large to hold, expected at most {MAX_DIM}; "
            "take an extractor with fewer features or smaller images"
        )
    pixel_capacity = max(1, min(PIXEL_CAPACITY, PIXEL_BYTES // math.prod(shape)))
    return _Parts(
        shape=shape,
        statistics=GroupedStatistics(dim),
        features=ReservoirSample(FEATURE_CAPACITY),
        pixels=ReservoirSample(pixel_capacity),
        colour=ColourAccumulator(shape[0]),
        classes=None if probabilities is None else ClassAccumulator(probabilities.shape[1]),
        score=None if probabilities is None else InceptionScoreAccumulator(probabilities.shape[1]),
    )


def _merged(a: _Parts, b: _Parts) -> _Parts:
    return _Parts(
        shape=a.shape,
        statistics=a.statistics.merge(b.statistics),
        features=a.features.merge(b.features),
        pixels=a.pixels.merge(b.pixels),
        colour=a.colour.merge(b.colour),
        classes=None if a.classes is None or b.classes is None else a.classes.merge(b.classes),
        score=None if a.score is None or b.score is None else a.score.merge(b.score),
    )


def _parts_from(tensors: dict[str, Tensor]) -> _Parts:
    channels, height, width = tensors["shape"].tolist()
    held: dict[str, Any] = {}
    for name, kind in _PART_TYPES.items():
        prefix = f"{name}."
        named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        held[name] = kind.from_tensors(named) if named or name not in ("classes", "score") else None
    return _Parts(shape=(channels, height, width), **held)
