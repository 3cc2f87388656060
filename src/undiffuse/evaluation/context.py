"""A model and the real images that it is compared with; samples are drawn once, in batches, and not all stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.data.dataset import Dataset
from undiffuse.data.example_captions import example_captions
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Protocol, evenly_spaced_subset
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.image_metrics import summarises
from undiffuse.evaluation.streaming import compute_statistics, rebatch
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.reservoir import ReservoirSample
from undiffuse.metrics.summary import PIXEL_BYTES, PIXEL_CAPACITY, ImageSetStatistics
from undiffuse.models.prompts import prompt_at
from undiffuse.models.request import SampleRequest
from undiffuse.models.sample_sets.record import classifier_record
from undiffuse.models.saved import Model, check_seeds
from undiffuse.observer import SILENT, Observer
from undiffuse.samplers.base import Progress

#: Minimum number of real images to compare samples with, if the data has as many.
REFERENCE_IMAGES = 5000
#: Largest number of captions that are prompts of the samples.
_MOST_TEXTS = 4096


@dataclass
class EvaluationContext:
    """A model under evaluation: its samples are compared with its training and held-out images.

    Args:
        model: trained.
        load_train: returns the training images; called once, by the first metric that needs them.
        held_out: images that were not used for training.
        protocol: see ``Protocol``.
        observer: receives the number of finished samples and the total.
        evaluator: the model that evaluates samples, such as a contrastive model; None for none.
        cache: of results and of the training images' summary; disabled by default.
    """

    model: Model
    load_train: Callable[[], Dataset]
    held_out: Dataset
    protocol: Protocol
    observer: Observer = SILENT
    cache: Cache = field(default_factory=lambda: Cache(None))
    evaluator: Model | None = None
    seconds: float = 0.0
    nfe: int = 0

    @cached_property
    def train(self) -> Dataset:
        """The images that the model was trained on."""
        return self.load_train()

    @property
    def generates_images(self) -> bool:
        """Whether the model generates images, not points."""
        return self.model.module.space.is_image

    @property
    def drawn(self) -> bool:
        """Whether any metric has drawn samples yet."""
        return self.nfe > 0

    @cached_property
    def _summary_or_reservoir(self) -> ImageSetStatistics | ReservoirSample:
        """The samples' summary, or only the images if there are too many features for one; sample i has seed + i."""
        small = summarises(self.num_features)
        collected = (
            ImageSetStatistics(self.extractor) if small else ReservoirSample(_bank_size(self.model.module.shape))
        )
        first = 0
        for batch in rebatch(self._batches(range(self.protocol.num))):
            collected.update(batch, torch.arange(first, first + len(batch)))
            first += len(batch)
        return collected

    @property
    def generated(self) -> ImageSetStatistics:
        """The summary of the samples; a conditional model cycles through its classes."""
        assert isinstance(self._summary_or_reservoir, ImageSetStatistics)  # see ``check_images``
        return self._summary_or_reservoir

    @property
    def generated_images(self) -> ReservoirSample:
        """The samples themselves, at most 10,000 and 128 MiB of them, by number."""
        return (
            self._summary_or_reservoir.pixels
            if isinstance(self._summary_or_reservoir, ImageSetStatistics)
            else self._summary_or_reservoir
        )

    def generated_subset(self, count: int) -> Tensor:
        """``count`` of the samples, or as many as there are."""
        bank = self.generated_images
        return bank.reduced(min(count, bank.capacity)).rows

    def real_subset(self, count: int) -> Tensor:
        """``count`` training images, evenly spaced over the set."""
        return evenly_spaced_subset(self.train, count)

    @cached_property
    def samples(self) -> Tensor:
        """float32 points (num, D); for images see ``generated``."""
        return torch.cat(list(self._batches(range(self.protocol.num))))

    def regenerate(self, numbers: Sequence[int]) -> Tensor:
        """The samples with these numbers, drawn again: sample i depends only on seed + i and its class."""
        (observer, seconds), self.observer = (self.observer, self.seconds), SILENT
        try:
            return torch.cat(list(self._batches(numbers)))
        finally:
            self.observer, self.seconds = observer, seconds

    def label_of(self, numbers: Tensor) -> Tensor:
        """The class (B,) that each of the samples with these numbers is conditioned on."""
        return numbers % len(self.model.class_names)

    @cached_property
    def _texts(self) -> list[str]:
        """Prompts of the samples: captions of training images, evenly spaced; empty for a model without text."""
        return example_captions(self.train, _MOST_TEXTS) if self.model.has_text else []

    def _prompts(self, numbers: Sequence[int]) -> list[Prompt] | None:
        """The prompts of the samples with these numbers, cycling through classes and captions; None for none."""
        names, texts = self.model.class_names, self._texts
        if not names and not texts:
            return None
        return [prompt_at(number, names, texts) for number in numbers]

    def _batches(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """uint8 images (B, C, H, W) or float32 points (B, D), batch by batch."""
        protocol = self.protocol
        check_seeds(protocol.seed, protocol.num)
        for start in range(0, len(numbers), protocol.batch_size):
            rows = numbers[start : start + protocol.batch_size]
            request = SampleRequest(
                [protocol.seed + number for number in rows],
                protocol.options,
                prompts=self._prompts(rows),
                batch_size=protocol.batch_size,
                callback=partial(self._report, start, len(numbers)),
                classifier=self.model.noisy_classifier,
            )
            started = time.monotonic()
            sampled = self.model.module.sample(request)
            self.nfe = sampled.nfe
            self.seconds += time.monotonic() - started  # excludes the time that metrics take
            self.observer.progress(start + len(rows), len(numbers))
            yield self.model.finish(sampled.x)

    def _report(self, start: int, total: int, first: int, progress: Progress) -> None:
        self.observer.progress(start + first + len(progress.x) * (progress.index + 1) / progress.count, total)

    @cached_property
    def real(self) -> ImageSetStatistics:
        """The summary of training images, evenly spaced over the set."""
        return compute_statistics(self.train, self.num_real, self.extractor, self.cache)

    @property
    def num_generated(self) -> int:
        """How many samples are drawn."""
        return self.protocol.num

    @property
    def num_real(self) -> int:
        """How many training images they are compared with; read from the model, not from the data."""
        trained_on: int = self.model.config["data"]["train"]
        return min(trained_on, max(self.protocol.num, REFERENCE_IMAGES))

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The requested features, or those that suit the data."""
        return pick_features(self.protocol.features, self.model.module.shape, self.model.origin)

    @property
    def num_features(self) -> int:
        """Number of features of one image."""
        return self.extractor.dim or math.prod(self.model.module.shape)

    def about_generated(self) -> dict[str, Any]:
        """A result's protocol entries about the samples."""
        return {"samples": self.sampling()}

    def about_real(self) -> dict[str, Any]:
        """A result's protocol entries about the real images."""
        return {
            "reference": "training images",
            "reference_images": self.num_real,
            "data_fingerprint": self.train.fingerprint,
        }

    def sampling(self) -> dict[str, Any]:
        """How the samples were drawn."""
        return {
            "num": self.protocol.num,
            "seed": self.protocol.seed,
            **self.model.module.sampling_record(),
            **self.protocol.options.given_as_json(),
            **classifier_record(self.model.classifier),
            "nfe": self.nfe,
            "weights": self.model.weights,
            "classes": "in turn" if self.model.class_names else "none",
            **({"prompts": "captions of the training images, evenly spaced"} if self.model.has_text else {}),
        }


def _bank_size(shape: Sequence[int]) -> int:
    return max(1, min(PIXEL_CAPACITY, PIXEL_BYTES // math.prod(shape)))


def need_held_out(context: EvaluationContext, metric: str, count: int = 1) -> None:
    """Raise UsageError if there are fewer held-out items than the ``count`` that a metric needs."""
    if len(context.held_out) < count:
        what = "images" if context.generates_images else "points"
        number = f"at least {count} held-out" if count > 1 else "held-out"
        raise UsageError(
            f"metric {metric!r} needs {number} {what}, got {len(context.held_out)}: train with a "
            "data.validation_fraction or give --data"
        )


def need_images(context: EvaluationContext, metric: str) -> None:
    """Raise UsageError for a metric of images if the model generates points."""
    if not context.generates_images:
        raise UsageError(f"metric {metric!r} is for images, this model generates points; use 'sliced_wasserstein'")
