"""Quality during training: samples of the same few seeds are repeatedly compared with the training data.

Images: the squared Fréchet distance over the default features for the data (the kernel distance where there are too few
images for it), or a given distance and features, with its standard error, equal to that of ``evaluate`` for as many
samples from the same seeds. Points: the sliced Wasserstein distance. The mean of each channel (coordinate) and the
contrast (the standard deviation over all values) of samples and of data are reported too, since a drift of colour or
contrast is measurable before it is visible. The data's statistics are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, evenly_spaced_subset
from undiffuse.metrics.colour import ColourAccumulator
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.set_distance import FrechetSetDistance, SetDistance, fitting_distance, set_distance
from undiffuse.metrics.sliced import sliced_wasserstein, sliced_wasserstein_error
from undiffuse.models.saved import Model

#: Training images to compare with; as many as there are samples if these are more.
REFERENCE_IMAGES = 5000


class ImageQuality:
    """A distance, colour and contrast of images; call it with chunks of uint8 (B, C, H, W).

    Args:
        extractor: of the features.
        train: the training images.
        num: number of samples that will be measured.
        distance: from the training images; the Fréchet distance by default.
    Raises:
        UsageError: fewer samples or training images than the distance needs.
    """

    def __init__(
        self, extractor: FeatureExtractor, train: Dataset, num: int, distance: SetDistance | None = None
    ) -> None:
        self.extractor, self.distance = extractor, distance or FrechetSetDistance()
        self._dim = extractor.dim or math.prod(train.shape)
        self.distance.check(min(num, len(train)), self._dim)
        self._real, self._real_colour = self._summarise(_chunks(train, max(num, REFERENCE_IMAGES)), train.shape[0])

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]:
        summary, colour = self._summarise(chunks, len(self._real_colour.histogram))
        found = self.distance.between(summary, self._real)
        return {
            "metric": f"{self.distance.name}_{self.extractor.name}",
            "value": found.value,
            "standard_error": found.standard_error,
            "samples": found.num_a,
            "reference": found.num_b,
            "mean": colour.mean,
            "contrast": colour.contrast,
            "data_mean": self._real_colour.mean,
            "data_contrast": self._real_colour.contrast,
        }

    def _summarise(self, chunks: Iterable[Tensor], num_channels: int) -> tuple[Any, ColourAccumulator]:
        summary, colour = self.distance.summary(self._dim), ColourAccumulator(num_channels)
        for chunk in chunks:
            summary.update(self.extractor.features(chunk))
            colour.update(chunk)
        return summary, colour


class PointQuality:
    """Sliced Wasserstein distance, mean and spread of points; call it with chunks of float32 (B, D).

    Args:
        train: the training points.
        num: number of samples that will be measured.
    """

    def __init__(self, train: Dataset, num: int) -> None:
        self._real = evenly_spaced_subset(train, num)

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]:
        samples = torch.cat(list(chunks))
        return {
            "metric": "sliced_wasserstein",
            "value": sliced_wasserstein(samples, self._real),
            "standard_error": sliced_wasserstein_error(samples, self._real),
            "samples": len(samples),
            "reference": len(self._real),
            "mean": samples.double().mean(0).tolist(),
            "contrast": float(samples.double().std(correction=0)),
            "data_mean": self._real.double().mean(0).tolist(),
            "data_contrast": float(self._real.double().std(correction=0)),
        }


def quality_measure(
    model: Model, train: Dataset, num: int, features: str = "auto", metric: str = "auto"
) -> ImageQuality | PointQuality:
    """A measure of ``num`` samples of a model against its training data, to be used during training.

    Args:
        features: of images, a row of ``metrics.FEATURES``; ``auto`` picks by the data.
        metric: the distance over them, a row of ``SET_DISTANCES``; ``auto`` is the Fréchet distance, or the kernel
            distance where there are too few images for it.
    Raises:
        UsageError: too few samples or training images, with the number needed and how to disable the measurement.
    """
    if not train.space.is_image:
        return PointQuality(train, num)
    try:
        extractor = pick_features(features, model.module.shape, model.origin)
        dim, count = extractor.dim or math.prod(train.shape), min(num, len(train))
        distance = fitting_distance(count, dim) if metric == "auto" else set_distance(metric)
        return ImageQuality(extractor, train, num, distance)
    except UsageError as error:
        raise UsageError(
            f"quality_samples={num} with {len(train)} real images cannot be measured ({error}); or set "
            "quality_every_images=0 for no measurements"
        ) from None


def _chunks(dataset: Dataset, count: int) -> Iterator[Tensor]:
    """Evenly spaced items, in chunks of ``CHUNK``."""
    rows = evenly_spaced(len(dataset), count)
    for start in range(0, len(rows), CHUNK):
        yield dataset.fetch(rows[start : start + CHUNK]).items
