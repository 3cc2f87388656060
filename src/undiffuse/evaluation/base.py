"""What is evaluated, how, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.limits import check_at_least
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.saved import check_seeds

CHUNK = 500  # real images in memory as tensors at a time


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is made.

    Args:
        num: samples drawn, and real images compared with where there are so many.
        seed: of the first sample.
        options: how samples are drawn; those that are not given are the model's own.
        batch_size: images sampled at a time; changes no number.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the data.
        bound_images: held-out images whose bound is computed.
        bound_steps: knots of the bound's grid for a process without its own.
        bound_variance: of the bound's reverse step, ``beta`` or ``beta_tilde``; ``None`` for ``beta`` on a chain's own
            knots and ``beta_tilde`` on the coarser grid of other processes, where it is the tighter; ``learned`` by
            default where the model learns one.
        bound_random_images, bound_random_terms: held-out images of the random estimate, and terms of each.
        bound_draws: log-SNRs at which the continuous bound is evaluated, per image.
        likelihood_images: held-out images whose likelihood the ODE gives; of points, ``num`` are taken.
        likelihood_probes: of Hutchinson's estimate; up to 16 dimensions the divergence is exact.
    """

    num: int = 1000
    seed: int = 0
    options: SamplingOptions = NO_OPTIONS
    batch_size: int = 256
    features: str = "auto"
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
        check_seeds(self.seed, self.num)


@dataclass(frozen=True)
class Result:
    """One number: its value, its uncertainty and the protocol that made it."""

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


def stating(result: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """A result whose protocol has these entries too."""
    return {**result, "protocol": {**result["protocol"], **entries}}


def spread(dataset: Dataset, count: int) -> Tensor:
    """``count`` items (at least one) evenly spaced over the set: folders come sorted by class, and none is missed."""
    rows = evenly_spaced(len(dataset), count)
    return torch.cat([dataset.fetch(rows[start : start + CHUNK]).items for start in range(0, len(rows), CHUNK)])
