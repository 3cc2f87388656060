"""Evaluating a model: sample, extract features, compare; each number with the protocol that made it.

A metric is one row of ``METRICS``: a function of a ``Subject``, which holds the model, the real pictures of both splits
and, drawn once and shared by all metrics, the samples.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.source import Dataset
from undiffuse.errors import UsageError
from undiffuse.losses.variational import Bound, variational_bound
from undiffuse.metrics import load_features
from undiffuse.metrics.classification import ClassTally
from undiffuse.metrics.distances import check_enough, frechet_estimate
from undiffuse.metrics.features import FeatureExtractor
from undiffuse.metrics.neighbours import Neighbours, nearest_neighbours, summarise_copying
from undiffuse.metrics.sliced import NUM_DIRECTIONS, sliced_wasserstein, sliced_wasserstein_error
from undiffuse.metrics.statistics import GroupedStatistics
from undiffuse.registry import lookup
from undiffuse.samplers.base import Blocked
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise
from undiffuse.systems.base import SampleRequest
from undiffuse.systems.saved import Model, check_seeds
from undiffuse.version import __version__

_CHUNK = 500  # real pictures in memory as tensors at a time
_FRECHET_GROUPS = 10  # of its jackknife
_CLOSEST = 16  # samples that a copying result names


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is to be made.

    Args:
        num: samples drawn, and real pictures compared with where there are so many.
        seed: of the first sample.
        sampler, steps, grid: ``None`` for the model's own.
        batch_size: pictures sampled at a time; changes no number.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the data.
        bound_images: held-out pictures whose bound is computed.
        bound_steps: knots of the bound's grid for a process without its own.
        bound_variance: of the bound's reverse step, ``beta`` or ``beta_tilde``; ``None`` for ``beta`` on a chain's own
            knots and ``beta_tilde`` on the coarser grid of other processes, where it is the tighter.
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

    def __post_init__(self) -> None:
        for name in ("num", "batch_size", "bound_images", "bound_steps"):
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
        defaults = self.model.config["config"]["system"]["sampling"]
        return {
            "num": self.protocol.num,
            "seed": self.protocol.seed,
            "sampler": self.protocol.sampler or defaults["sampler"],
            "steps": self.protocol.steps or defaults["num_steps"],
            "grid": self.protocol.grid or defaults["grid"],
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
    return torch.cat([dataset.fetch(rows[start : start + _CHUNK]).items for start in range(0, len(rows), _CHUNK)])


def statistics_of(extractor: FeatureExtractor, images: Tensor) -> GroupedStatistics:
    """Feature statistics of pictures (N, C, H, W), chunk by chunk."""
    first = extractor.features(images[:1])
    statistics = GroupedStatistics(first.shape[1])
    for start in range(0, len(images), _CHUNK):
        statistics.update(extractor.features(images[start : start + _CHUNK]))
    return statistics


def _need_pictures(subject: Subject, metric: str) -> None:
    if len(subject.model.system.shape) != 3:
        raise UsageError(f"metric {metric!r} is for pictures, this model makes points; use 'sliced_wasserstein'")


def vlb(subject: Subject) -> list[Result]:
    """The variational bound on held-out pictures: L_T, the sum of L_t, L_0 and their total, in bits a dimension."""
    _need_pictures(subject, "vlb")  # its decoder counts 256 levels
    model, protocol = subject.model, subject.protocol
    if len(subject.held_out) == 0:
        raise UsageError("metric 'vlb' needs held-out pictures: train with a validation_fraction or give --data")
    items = spread(subject.held_out, protocol.bound_images)
    x_0 = (items.float() / 127.5 - 1).to(model.system.device)
    system: Any = model.system
    denoiser = Blocked(system.denoiser("fp32"), 64)
    times = bound_grid(system.process, system.log_snr_range, protocol.bound_steps)
    noise = SeededNoise(range(protocol.seed, protocol.seed + len(x_0)))

    def normal(like: Tensor, number: int) -> Tensor:
        return noise.at(torch.full((len(like),), number)).normal(like)

    variance = protocol.bound_variance or ("beta" if system.process.knots is not None else "beta_tilde")
    bound = variational_bound(denoiser, x_0, times.to(x_0.device), normal, variance=variance)
    stated = {
        "images": len(x_0),
        "split": "held out",
        "data_fingerprint": subject.held_out.fingerprint,
        "terms": len(times),
        "grid": "the chain's own knots" if system.process.knots is not None else "even in log-SNR",
        "t_1": float(times[0]),
        "variance": bound.variance,
        "decoder": f"discretised Gaussian over 256 levels, std {bound.decoder_std:.5g}",
        "draws_a_term": 1,
        "labels": "none",
        "precision": "fp32 network, float64 sums",
    }
    return [_bits(name, bound, nats, stated) for name, nats in _parts(bound).items()]


def _parts(bound: Bound) -> dict[str, Tensor]:
    return {
        "vlb": bound.total,
        "vlb_prior": bound.prior,
        "vlb_terms": bound.terms.sum(1),
        "vlb_decoder": bound.decoder,
    }


def _bits(name: str, bound: Bound, nats: Tensor, stated: dict[str, Any]) -> Result:
    bits = bound.bits_per_dim(nats)
    error = float(bits.std() / len(bits) ** 0.5) if len(bits) > 1 else None
    return Result(name, float(bits.mean()), "bits/dim", error, "lower", stated)


def bound_grid(process: Any, log_snr_range: tuple[float, float], num_knots: int) -> Tensor:
    """Ascending times of the bound: a chain's own knots, or ``num_knots`` even in log-SNR up to the noisiest."""
    if process.knots is not None:
        knots: Tensor = process.knots[1:]
        return knots
    inner = time_grid("log_snr", process, num_knots, log_snr_range)[:-1].flip(0)
    last = process.time_of_log_snr(torch.tensor([log_snr_range[0]], dtype=torch.float64))
    return inner if float(inner[-1]) >= float(last) else torch.cat([inner, last])


def frechet(subject: Subject) -> list[Result]:
    """Fréchet distance of samples from training pictures, over features that the result names. It is not FID."""
    _need_pictures(subject, "frechet")
    extractor = subject.extractor
    real = spread(subject.train, max(subject.protocol.num, 5000))
    check_enough(min(subject.protocol.num, len(real)), subject.num_features, _FRECHET_GROUPS)
    estimate = frechet_estimate(statistics_of(extractor, subject.samples), statistics_of(extractor, real))
    stated = {
        **extractor.protocol(),
        "reference": "training pictures",
        "reference_images": len(real),
        "data_fingerprint": subject.train.fingerprint,
        "samples": subject.sampling(),
        "estimate": estimate.to_dict(),
    }
    name = f"frechet_{extractor.name}"
    return [Result(name, estimate.value, "squared feature units", estimate.standard_error, "lower", stated)]


def classes(subject: Subject) -> list[Result]:
    """Share of samples that a classifier names with confidence, and how evenly it names the classes."""
    _need_pictures(subject, "classes")
    extractor = subject.extractor
    tally = ClassTally()
    for start in range(0, len(subject.samples), _CHUNK):
        tally.update(extractor.classify(subject.samples[start : start + _CHUNK]))
    stated = {**extractor.protocol(), "samples": subject.sampling(), "confident_from": tally.confident}
    details = tally.to_dict()
    return [
        Result(
            "confident_share", tally.confident_share, "share", tally.confident_share_error, "higher", stated, details
        ),
        Result("class_balance", tally.balance, "entropy / log K", None, "higher", stated, details),
    ]


def copying(subject: Subject) -> list[Result]:
    """Distance of samples to their nearest training picture, beside that of held-out pictures: is it copying?"""
    _need_pictures(subject, "copying")
    if len(subject.held_out) < 2:
        raise UsageError("metric 'copying' needs held-out pictures for scale: train with a validation_fraction")
    held_out = spread(subject.held_out, subject.protocol.num)
    training = spread(subject.train, len(subject.train))
    sampled, real = (nearest_neighbours(images, training) for images in (subject.samples, held_out))
    summary = summarise_copying(sampled.distances[:, 0], real.distances[:, 0], len(training))
    stated = {"space": "pixels", "distance": "L2", "samples": subject.sampling(), "held_out_images": len(held_out)}
    details = {**summary.to_dict(), "closest": _closest(sampled, subject.protocol.seed)}
    ratio = None if summary.ratio is None else float(summary.ratio)
    return [
        Result("neighbour_ratio", ratio, "median distance / that of held-out pictures", None, "near 1", stated, details)
    ]


def _closest(sampled: Neighbours, seed: int) -> list[dict[str, Any]]:
    """The samples nearest to any training picture: the first to look at."""
    order = sampled.distances[:, 0].argsort()[:_CLOSEST].tolist()
    return [
        {
            "seed": seed + number,
            "training_item": int(sampled.indices[number, 0]),
            "distance": float(sampled.distances[number, 0]),
        }
        for number in order
    ]


def sliced(subject: Subject) -> list[Result]:
    """Mean W_2 of samples and held-out points along fixed directions; the same of training points gives the scale."""
    if len(subject.model.system.shape) == 3:
        raise UsageError("metric 'sliced_wasserstein' is for points, this model makes pictures; use 'frechet'")
    if len(subject.held_out) == 0:
        raise UsageError("metric 'sliced_wasserstein' needs held-out points: train with a validation_fraction")
    num = subject.protocol.num
    real, training = spread(subject.held_out, num), spread(subject.train, num)
    value = sliced_wasserstein(subject.samples, real)
    stated = {
        "directions": NUM_DIRECTIONS,
        "reference": "held-out points",
        "reference_points": len(real),
        "data_fingerprint": subject.held_out.fingerprint,
        "samples": subject.sampling(),
    }
    details = {"training_to_held_out": sliced_wasserstein(training, real), "training_points": len(training)}
    error = sliced_wasserstein_error(subject.samples, real)
    return [Result("sliced_wasserstein", value, "units of the data", error, "lower", stated, details)]


METRICS: dict[str, Callable[[Subject], list[Result]]] = {
    "vlb": vlb,
    "frechet": frechet,
    "classes": classes,
    "copying": copying,
    "sliced_wasserstein": sliced,
}


def default_metrics(subject: Subject) -> tuple[list[str], str]:
    """The metrics that make sense for a model and a number of samples, and a line on what was left out, or ""."""
    if len(subject.model.system.shape) != 3:
        return ["sliced_wasserstein"], ""
    others = ["copying", "vlb"] if subject.extractor.name == "pixels" else ["classes", "copying", "vlb"]
    trained_on = subject.model.config["data"]["train"]
    needed, given = max(subject.num_features + 1, 2 * _FRECHET_GROUPS), min(subject.protocol.num, trained_on)
    if given >= needed:
        return ["frechet", *others], ""
    way = (
        f"ask for it with --metrics frechet --num {needed}"
        if trained_on >= needed
        else f"the model's {trained_on} training pictures are too few for it"
    )
    return others, (
        f"no Fréchet distance: on {subject.num_features} {subject.extractor.name} features it needs {needed} samples, "
        f"--num is {subject.protocol.num}; {way}"
    )


def check_metrics(names: Sequence[str]) -> None:
    """Refuse an unknown metric before anything is computed."""
    for name in names:
        lookup(METRICS, name, "metric")


def evaluate(subject: Subject, metrics: Sequence[str]) -> dict[str, Any]:
    """All results as plain values for JSON, with what they were computed on.

    Raises:
        UsageError: an unknown metric, or too few pictures for one.
    """
    rows = [lookup(METRICS, name, "metric") for name in metrics]
    results = [result.to_dict() for row in rows for result in row(subject)]
    sampling = {"sampling": {**subject.sampling(), "seconds": round(subject.seconds, 2)}} if subject.drawn else {}
    return {
        "results": results,
        "model": {"path": subject.model.path.resolve().name, "weights_sha256": subject.model.weights_sha256},
        "recipe": subject.model.config["config"]["recipe"],
        **sampling,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "undiffuse": __version__,
        "hardware": hardware(),
    }


def hardware() -> str:
    """The machine in a few words."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{platform.machine()}, {threads}{gpu}, torch {torch.__version__}, Python {platform.python_version()}"
