"""A pair of image sets, generated and real, each summarised once for all metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.decoding.notes import storage_record
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import evenly_spaced_subset
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.streaming import compute_statistics
from undiffuse.limits import check_at_least
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.summary import ImageSetStatistics
from undiffuse.observer import SILENT, Observer


@dataclass
class Pair:
    """Two sets of images of one shape.

    Args:
        generated_set: the images to evaluate.
        real_set: the real images that they are compared with.
        num: maximum number of images of each set, evenly spaced; ``None`` for all.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the images.
        cache: of summaries and results; disabled by default.
        observer: receives the number of images read and the total.
    Raises:
        UsageError: points, or images of different shapes.
    """

    generated_set: Dataset
    real_set: Dataset
    num: int | None = None
    features: str = "auto"
    cache: Cache = field(default_factory=lambda: Cache(None))
    observer: Observer = SILENT

    def __post_init__(self) -> None:
        if self.num is not None:
            check_at_least("num", self.num)
        for dataset in (self.generated_set, self.real_set):
            if not dataset.space.is_image:
                raise UsageError(f"sets of images are compared, {dataset.name!r} holds points of {dataset.shape}")
        if self.generated_set.shape != self.real_set.shape:
            raise UsageError(
                f"images of shape {self.generated_set.shape} and {self.real_set.shape} (channels, height, width) do "
                "not compare; bring them to one size and one number of channels"
            )

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The requested features, or those that suit the real images."""
        origin = " ".join([self.real_set.name, *self.real_set.provenance.values(), *self.real_set.class_names])
        return pick_features(self.features, self.real_set.shape, origin)

    @property
    def num_features(self) -> int:
        """Number of features of one image."""
        return self.extractor.dim or math.prod(self.real_set.shape)

    @property
    def num_generated(self) -> int:
        """Number of images that are evaluated."""
        return min(len(self.generated_set), self.num or len(self.generated_set))

    @property
    def num_real(self) -> int:
        """Number of real images that they are compared with."""
        return min(len(self.real_set), self.num or len(self.real_set))

    @cached_property
    def generated(self) -> ImageSetStatistics:
        """The summary of the images to evaluate."""
        return compute_statistics(self.generated_set, self.num_generated, self.extractor, self.cache, self.observer)

    @cached_property
    def real(self) -> ImageSetStatistics:
        """The summary of the real images."""
        return compute_statistics(self.real_set, self.num_real, self.extractor, self.cache, self.observer)

    def generated_subset(self, count: int) -> Tensor:
        """``count`` of the images to evaluate, evenly spaced over the set."""
        return evenly_spaced_subset(self.generated_set, min(count, self.num_generated))

    def real_subset(self, count: int) -> Tensor:
        """``count`` of the real images, evenly spaced over the set."""
        return evenly_spaced_subset(self.real_set, min(count, self.num_real))

    def about_generated(self) -> dict[str, Any]:
        """A result's protocol entries about the images to evaluate."""
        return {"pictures": about_set(self.generated_set, self.num_generated)}  # data

    def about_real(self) -> dict[str, Any]:
        """A result's protocol entries about the real images."""
        return {"reference": about_set(self.real_set, self.num_real), "reference_images": self.num_real}


def about_set(dataset: Dataset, num: int) -> dict[str, Any]:
    """The protocol entries of a set of images of which ``num`` were used."""
    entries: dict[str, Any] = {key: dataset.provenance.get(key) for key in ("source", "options")}
    entries |= storage_record(dataset.provenance)
    return {"num": num, "of": len(dataset), "set": dataset.name, **entries, "data_fingerprint": dataset.fingerprint}
