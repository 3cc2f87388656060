"""Quality of images, measured in the same way for all models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.data import load_dataset, source_config_for, split_by_content
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation import evenly_spaced_subset
from undiffuse.losses.levels import loss_by_level
from undiffuse.metrics import (
    ClassAccumulator,
    FrechetEstimate,
    GroupedStatistics,
    KernelEstimate,
    frechet_estimate,
    kernel_distance,
)
from undiffuse.metrics.features import pick_features
from undiffuse.samplers.noise import SeededNoise

#: Log-SNRs of the error by level; every model here has been trained on them.
LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
REFERENCE_IMAGES = 10_000


def two_parts(folder: Path, fraction: float = 0.02) -> tuple[Dataset, Dataset]:
    """(training, held-out) data, split as in the recipes for MNIST-format files."""
    return split_by_content(load_dataset(source_config_for(str(folder))), fraction)


class QualityMeasure:
    """Measures images against training data.

    Args:
        train: the training data.
        features: a key of ``metrics.features.FEATURES``, or ``auto``.
        reference: number of training images, evenly spaced.
        metric: ``frechet``, or ``kernel`` for fewer images than features.
    """

    def __init__(
        self,
        train: Dataset,
        features: str = "auto",
        reference: int = REFERENCE_IMAGES,
        metric: str = "frechet",
    ) -> None:
        self.metric = metric
        origin = " ".join([train.name, *map(str, train.provenance.values()), *train.class_names])
        self.extractor = pick_features(features, train.shape, origin)
        images = evenly_spaced_subset(train, min(reference, len(train)))
        self.real = self.extractor.features(images)
        self.statistics = GroupedStatistics.of(self.real) if metric == "frechet" else None
        self.protocol = {**self.extractor.protocol(), "reference_pictures": len(images)}

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """The distance with its standard error, the fraction classified with at least 0.9, and the class histogram."""
        if self.extractor.name == "pixels":
            features, tally = self.extractor.features(images), None
        else:
            features, probabilities = self.extractor.features_and_probabilities(images)
            tally = ClassAccumulator.of(probabilities)
        if self.statistics is None:
            estimate: FrechetEstimate | KernelEstimate = kernel_distance(features, self.real)
        else:
            estimate = frechet_estimate(GroupedStatistics.of(features), self.statistics)
        named = {} if tally is None else {"confident_share": tally.confident_share, "histogram": tally.histogram}
        return {
            "num": len(images),
            self.metric: round(estimate.value, 4 if self.metric == "frechet" else 7),
            "standard_error": round(estimate.standard_error, 4 if self.metric == "frechet" else 7),
            **named,
        }


@dataclass(frozen=True)
class _Fixed:
    """Adapts a denoiser to the interface of ``loss_by_level``."""

    made: Denoiser

    def denoiser(self, precision: str | None = None) -> Denoiser:
        """The wrapped denoiser."""
        return self.made


def error_by_level(denoiser: Denoiser, held_out: Dataset, count: int, levels: Sequence[float] = LEVELS) -> list[float]:
    """Mean squared error of eps-hat on held-out images at each log-SNR, equal under every process.

    It is e^lambda times the error of x_0-hat. All models get the same images and noise.
    """
    log_snr = torch.tensor(levels, dtype=torch.float64)
    total = torch.zeros(len(levels), dtype=torch.float64)
    items = evenly_spaced_subset(held_out, min(count, len(held_out)))
    for start in range(0, len(items), 64):
        x_0 = items[start : start + 64].float() / 127.5 - 1
        noise = SeededNoise(range(start, start + len(x_0)))
        total += loss_by_level(_Fixed(denoiser), x_0, log_snr, noise).sum(1)
    return [round(value, 6) for value in (total / len(items)).tolist()]
