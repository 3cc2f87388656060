"""The protocol of an evaluation and its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.limits import check_at_least
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.rules import check_template
from undiffuse.models.saved import check_seeds

CHUNK = 500  # real images in memory as tensors at a time


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation.

    Args:
        num: number of samples, and of real images to compare them with if the data has as many.
        seed: seed of the first sample.
        options: sampling options; the model's defaults are used for those that are not given.
        batch_size: images per batch; does not change the results.
        features: a row of ``metrics.FEATURES``; ``auto`` chooses by the data.
        bound_images: number of held-out images for the variational bound (VLB).
        bound_steps: number of timesteps of the VLB for continuous-time processes.
        bound_variance: variance of p(x_s | x_t) in the VLB, ``beta`` or ``beta_tilde``. By default ``learned`` for a
            model that learns it, else ``beta`` for discrete-time processes and ``beta_tilde`` for continuous-time
            ones, where it is tighter.
        bound_random_images, bound_random_terms: number of held-out images of the Monte Carlo estimate of the VLB, and
            of sampled timesteps per image.
        bound_draws: Monte Carlo samples of the log-SNR per image for the continuous-time VLB.
        gallery: largest number of captions that one is retrieved from.
        template: text of a class, with ``{}`` for its name, for evaluators of texts.
        likelihood_images: number of held-out images for the ODE likelihood; ``num`` for points.
        likelihood_probes: probe vectors of Hutchinson's trace estimator; up to 16 dimensions the trace is exact.
    """

    num: int = 1000
    seed: int = 0
    options: SamplingOptions = NO_OPTIONS
    batch_size: int = 256
    features: str = "auto"
    gallery: int = 200
    template: str = "{}"
    bound_images: int = 64
    bound_steps: int = 200
    bound_variance: str | None = None
    bound_random_images: int = 10_000
    bound_random_terms: int = 1
    bound_draws: int = 32
    likelihood_images: int = 64
    likelihood_probes: int = 1

    def __post_init__(self) -> None:
        counts = ("num", "batch_size", "bound_images", "bound_steps", "bound_random_images", "bound_random_terms")
        for name in (*counts, "bound_draws", "likelihood_images", "likelihood_probes"):
            check_at_least(name, getattr(self, name))
        check_at_least("gallery", self.gallery, 2)
        check_template(self.template)
        check_seeds(self.seed, self.num)


@dataclass(frozen=True)
class Result:
    """One number: its value, its uncertainty and the protocol it was computed with."""

    metric: str
    value: float | None
    unit: str
    uncertainty: float | None
    better: str
    protocol: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metric": self.metric,
            "value": self.value,
            "uncertainty": self.uncertainty,
            "unit": self.unit,
            "better": self.better,
            "protocol": self.protocol,
            "details": self.details,
        }


def with_protocol(result: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """A result with these entries added to its protocol."""
    return {**result, "protocol": {**result["protocol"], **entries}}


def evenly_spaced_subset(dataset: Dataset, count: int) -> Tensor:
    """``count`` items (at least one) evenly spaced over the set, which covers all classes of a set sorted by class."""
    rows = evenly_spaced(len(dataset), count)
    return torch.cat([dataset.fetch(rows[start : start + CHUNK]).items for start in range(0, len(rows), CHUNK)])
