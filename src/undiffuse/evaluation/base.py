"""What is evaluated, how, and what comes out."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.source import Dataset
from undiffuse.errors import UsageError
from undiffuse.metrics import load_features
from undiffuse.metrics.features import FeatureExtractor
from undiffuse.systems.base import SampleRequest
from undiffuse.systems.saved import Model, check_seeds

CHUNK = 500  # real pictures in memory as tensors at a time


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is to be made.

    Args:
        num: samples drawn, and real pictures compared with where there are so many.
        seed: of the first sample.
        sampler, steps, grid: ``None`` for the model's own.
        process: that samples are drawn under; ``None`` for the model's own.
        batch_size: pictures sampled at a time; changes no number.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the data.
        bound_images: held-out pictures whose bound is computed.
        bound_steps: knots of the bound's grid for a process without its own.
        bound_variance: of the bound's reverse step, ``beta`` or ``beta_tilde``; ``None`` for ``beta`` on a chain's own
            knots and ``beta_tilde`` on the coarser grid of other processes, where it is the tighter; ``learned`` by
            default where the model learns one.
        bound_random_images, bound_random_terms: held-out pictures of the random estimate, and terms of each.
        bound_draws: log-SNRs at which the continuous bound looks, a picture.
        likelihood_images: held-out pictures whose likelihood the ODE gives; of points, ``num`` are taken.
        likelihood_probes: of Hutchinson's estimate; up to 16 dimensions the divergence is exact.
    """

    num: int = 1000
    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    grid: str | None = None
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
    process: str | None = None

    def __post_init__(self) -> None:
        counts = ("num", "batch_size", "bound_images", "bound_steps", "bound_random_images", "bound_random_terms")
        for name in (*counts, "bound_draws", "likelihood_images", "likelihood_probes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_seeds(self.seed, self.num)


@dataclass(frozen=True)
class Result:
    """One number: what it is, how sure, and how it came about."""

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


@dataclass
class Subject:
    """What is evaluated.

    Args:
        model: trained.
        load_train: gives the pictures it learned from; called once, by the first metric that needs them.
        held_out: pictures it never saw.
        protocol: see there.
        tell: called with (samples done, samples asked for).
    """

    model: Model
    load_train: Callable[[], Dataset]
    held_out: Dataset
    protocol: Protocol
    tell: Callable[[int, int], None] | None = None
    seconds: float = 0.0
    nfe: int = 0

    @cached_property
    def train(self) -> Dataset:
        """The pictures that the model learned from."""
        return self.load_train()

    @property
    def drawn(self) -> bool:
        """Whether any metric has asked for samples yet."""
        return "samples" in self.__dict__

    @cached_property
    def samples(self) -> Tensor:
        """uint8 pictures (num, C, H, W) or float32 points (num, D); classes in turn where the model knows any."""
        protocol = self.protocol
        cond = self.model.condition(self.model.classes_of(None, protocol.num))
        seeds, parts, started = check_seeds(protocol.seed, protocol.num), [], time.monotonic()
        for start in range(0, protocol.num, protocol.batch_size):
            rows = slice(start, start + protocol.batch_size)
            request = SampleRequest(
                seeds=seeds[rows],
                sampler=protocol.sampler,
                num_steps=protocol.steps,
                grid=protocol.grid,
                process=protocol.process,
                cond=cond.select(rows) if cond is not None else None,
                batch_size=protocol.batch_size,
            )
            sampled = self.model.system.sample(request)
            parts.append(self.model.finish(sampled.x))
            self.nfe = sampled.nfe
            if self.tell is not None:
                self.tell(min(start + protocol.batch_size, protocol.num), protocol.num)
        self.seconds = time.monotonic() - started
        return torch.cat(parts)

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The features asked for, or those that fit the data."""
        if self.protocol.features != "auto":
            return load_features(self.protocol.features)
        return load_features(features_for(self.model))

    @property
    def num_features(self) -> int:
        """The features of one picture."""
        return self.extractor.dim or math.prod(self.model.system.shape)

    def sampling(self) -> dict[str, Any]:
        """How the samples were made."""
        asked = {key: getattr(self.protocol, key) for key in ("sampler", "steps", "grid", "process")}
        return {
            "num": self.protocol.num,
            "seed": self.protocol.seed,
            **self.model.system.sampling_facts(),
            **{key: value for key, value in asked.items() if value is not None},
            "nfe": self.nfe,
            "weights": self.model.weights,
            "classes": "in turn" if self.model.class_names else "none",
        }


def features_for(model: Model) -> str:
    """The features that suit a model: ``fashion`` or ``handwriting`` for small grey pictures, else ``pixels``.

    They follow from what the model's ``config.json`` says of its data, which need not be there.
    """
    shape = model.system.shape
    if len(shape) != 3 or shape[0] != 1 or max(shape[1:]) > 32:
        return "pixels"
    origin = [*map(str, model.config["config"]["data"].values()), *model.config["model"]["class_names"]]
    return "fashion" if "fashion" in " ".join(origin).lower() else "handwriting"


def spread(dataset: Dataset, count: int) -> Tensor:
    """``count`` items (at least one) evenly spaced over the set: folders come sorted by class, and none is left out."""
    rows = evenly_spaced(len(dataset), count)
    return torch.cat([dataset.fetch(rows[start : start + CHUNK]).items for start in range(0, len(rows), CHUNK)])


def need_pictures(subject: Subject, metric: str) -> None:
    """Refuse a metric of pictures on a model of points."""
    if len(subject.model.system.shape) != 3:
        raise UsageError(f"metric {metric!r} is for pictures, this model makes points; use 'sliced_wasserstein'")


def hardware() -> str:
    """The machine in a few words."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{platform.machine()}, {threads}{gpu}, torch {torch.__version__}, Python {platform.python_version()}"
