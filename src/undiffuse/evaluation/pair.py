"""Two sets of pictures, one to judge and one to judge it by, each summed up once for all metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.decoding.remarks import stored_with
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import spread
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.gather import summary_of
from undiffuse.limits import check_at_least
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.summary import SetSummary
from undiffuse.observer import SILENT, Observer


@dataclass
class Pair:
    """Two sets of pictures of one shape.

    Args:
        made: the pictures to judge.
        held: the real ones that they are judged by.
        num: of each at most, evenly spaced; ``None`` for all.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the pictures.
        cache: of summaries and results; by default nothing is kept.
        observer: hears of the pictures read, of those to read.
    Raises:
        UsageError: points, or pictures of two shapes.
    """

    made: Dataset
    held: Dataset
    num: int | None = None
    features: str = "auto"
    cache: Cache = field(default_factory=lambda: Cache(None))
    observer: Observer = SILENT

    def __post_init__(self) -> None:
        if self.num is not None:
            check_at_least("num", self.num)
        for dataset in (self.made, self.held):
            if not dataset.space.is_image:
                raise UsageError(f"sets of pictures are compared, {dataset.name!r} holds points of {dataset.shape}")
        if self.made.shape != self.held.shape:
            raise UsageError(
                f"pictures of shape {self.made.shape} and {self.held.shape} (channels, height, width) do not compare; "
                "bring them to one size and one number of channels"
            )

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The features asked for, or those that fit the real pictures."""
        origin = " ".join([self.held.name, *self.held.provenance.values(), *self.held.class_names])
        return pick_features(self.features, self.held.shape, origin)

    @property
    def num_features(self) -> int:
        """The features of one picture."""
        return self.extractor.dim or math.prod(self.held.shape)

    @property
    def num_generated(self) -> int:
        """How many pictures are judged."""
        return min(len(self.made), self.num or len(self.made))

    @property
    def num_real(self) -> int:
        """How many real pictures they are judged by."""
        return min(len(self.held), self.num or len(self.held))

    @cached_property
    def generated(self) -> SetSummary:
        """The summary of the pictures to judge."""
        return summary_of(self.made, self.num_generated, self.extractor, self.cache, self.observer)

    @cached_property
    def real(self) -> SetSummary:
        """The summary of the real ones."""
        return summary_of(self.held, self.num_real, self.extractor, self.cache, self.observer)

    def some_generated(self, count: int) -> Tensor:
        """``count`` of the pictures to judge, evenly spaced over the set."""
        return spread(self.made, min(count, self.num_generated))

    def some_real(self, count: int) -> Tensor:
        """``count`` of the real ones, evenly spaced over the set."""
        return spread(self.held, min(count, self.num_real))

    def about_generated(self) -> dict[str, Any]:
        """What a result says about the pictures to judge."""
        return {"pictures": about_set(self.made, self.num_generated)}

    def about_real(self) -> dict[str, Any]:
        """What a result says about the real ones."""
        return {"reference": about_set(self.held, self.num_real), "reference_images": self.num_real}


def about_set(dataset: Dataset, num: int) -> dict[str, Any]:
    """What a result says of a set of pictures and how many of them were looked at."""
    stated: dict[str, Any] = {key: dataset.provenance.get(key) for key in ("source", "options")}
    stated |= stored_with(dataset.provenance)
    return {"num": num, "of": len(dataset), "set": dataset.name, **stated, "data_fingerprint": dataset.fingerprint}
