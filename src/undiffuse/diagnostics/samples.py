"""Checks of new samples against the data: steps, saturation, colours, variety, classes, coverage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from undiffuse.diagnostics.duplicates import thumbnails
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.errors import UsageError
from undiffuse.metrics.classification import ClassAccumulator
from undiffuse.metrics.coverage import coverage as coverage_of
from undiffuse.samplers import make_sampler
from undiffuse.wording import count_noun, format_names

_STEP_FACTOR, _NUM_COMPARED = 4, 16
_MIN_SAMPLES = 48  # minimum for statistics
_CHUNK = 256
_END = 4  # values within this distance of 0 and 255 count as black and white


def steps(context: RunContext) -> Iterable[Finding]:
    """Whether more steps of the sampler would change the images."""
    context.check_images()
    sampling = context.model.module.sampling_record()
    if not sampling:
        raise UsageError("the model samples in one step")
    sampler = make_sampler(sampling["sampler"])
    if sampler.stochastic and not sampler.needs_brownian:
        yield Finding(
            "note",
            "steps not compared",
            f"{sampling['sampler']} draws new noise at every step, so another number of steps gives other images",
            "compare the quality instead: undiffuse evaluate MODEL --steps N",
        )
        return
    coarse = context.samples[:_NUM_COMPARED]
    fine = context.draw(0, len(coarse), _STEP_FACTOR * int(sampling["steps"]))
    yield assess_steps(coarse, fine, int(sampling["steps"]))


def assess_steps(coarse: Tensor, fine: Tensor, num_steps: int) -> Finding:
    """Compare samples of the same seeds with ``num_steps`` steps and with four times as many, uint8 (B, C, H, W)."""
    change = (coarse.float() - fine.float()).flatten(1)
    rms, mean = float(change.square().mean().sqrt()), float(change.abs().mean())
    contrast = float(fine.float().flatten(1).std(1).mean())
    share = rms / max(contrast, 1e-6)
    details = {"mean_change": mean, "rms_change": rms, "rms_over_contrast": share, "steps": num_steps}
    text = (
        f"{_STEP_FACTOR * num_steps} steps from the same seeds change values by {mean:.1f} of 255 on average, "
        f"{percent(share)} of the contrast"
    )
    if share > 0.5:
        advice = (
            f"sample with more steps (--steps {2 * num_steps}) or a sampler of higher order (--sampler heun, dpmpp_2m)"
        )
        return Finding("warning", "too few sampling steps", text, advice, details)
    if share > 0.25:
        advice = f"try --steps {2 * num_steps} if details matter"
        return Finding("note", "more sampling steps change details", text, advice, details)
    return Finding("ok", "sampling steps", text, details=details)


def samples_and_data(context: RunContext) -> tuple[Tensor, Tensor]:
    """(samples, at least as many training images)."""
    context.check_images()
    if len(context.samples) < min(_MIN_SAMPLES, context.num):
        raise UsageError(
            f"{count_noun(len(context.samples), 'sample')} took "
            f"{context.seconds_per_sample * len(context.samples):.0f} s, too few to compare; use fewer steps "
            "(system.sampling.num_steps) or a GPU"
        )
    return context.samples, context.real(max(len(context.samples), 1000))


def colours(context: RunContext) -> Iterable[Finding]:
    """Whether samples drift from the data in brightness, colour or contrast."""
    yield from assess_colours(*samples_and_data(context))


def assess_colours(samples: Tensor, real: Tensor) -> Iterable[Finding]:
    """The findings of ``colours`` for two sets of uint8 images (B, C, H, W)."""
    (mean, error), (true, true_error) = (_channel_means(images) for images in (samples, real))
    shift, spread = mean - true, (error**2 + true_error**2).sqrt()
    contrast, true_contrast = (float(images.float().flatten(1).std(1).mean()) for images in (samples, real))
    ratio = contrast / max(true_contrast, 1e-6)
    details = {"mean": mean.tolist(), "data_mean": true.tolist(), "contrast": contrast, "data_contrast": true_contrast}
    drifted = (shift.abs() > 4 * spread) & (shift.abs() > 5)
    text = f"mean {_levels(mean)} against {_levels(true)} of 255, contrast {contrast:.1f} against {true_contrast:.1f}"
    if bool(drifted.any()):
        yield Finding(
            "warning",
            "samples drift in brightness or colour",
            f"{text}: {float(shift.abs().max()):.0f} levels off, "
            f"{float((shift.abs() / spread).max()):.0f} standard errors",
            "sample with --weights raw to see whether the average is to blame, train on, or take more steps",
            details,
        )
    if not 0.85 < ratio < 1.15:
        yield Finding(
            "warning",
            "contrast of samples is off",
            f"{text}: {percent(ratio)} of that of the data",
            "lower a guidance scale if it is higher; train on or take more steps if it is lower",
            details,
        )
    if not bool(drifted.any()) and 0.85 <= ratio <= 1.15:
        yield Finding("ok", "brightness, colour and contrast", text, details=details)


def _channel_means(images: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) means of the channels and their standard errors over images."""
    means = images.float().flatten(2).mean(2).double()
    return means.mean(0), means.std(0) / math.sqrt(len(means))


def _levels(values: Tensor) -> str:
    return "/".join(f"{value:.0f}" for value in values.tolist())


def saturation(context: RunContext) -> Iterable[Finding]:
    """Whether samples have more values at the ends of the range than the data."""
    yield assess_saturation(*samples_and_data(context))


def assess_saturation(samples: Tensor, real: Tensor) -> Finding:
    """The finding of ``saturation`` for two sets of uint8 images: fractions of values within ``_END`` of 0 and 255."""
    shares = {
        "black": (float((samples <= _END).float().mean()), float((real <= _END).float().mean())),
        "white": (float((samples >= 255 - _END).float().mean()), float((real >= 255 - _END).float().mean())),
    }
    text = ", ".join(f"{percent(a)} {name} against {percent(b)} of the data" for name, (a, b) in shares.items())
    details = {name: pair[0] for name, pair in shares.items()} | {f"data_{name}": p[1] for name, p in shares.items()}
    if any(a > b + 0.05 and a > 1.25 * b for a, b in shares.values()):
        return Finding(
            "warning",
            "samples are saturated",
            text,
            "lower a guidance scale; else the model overshoots: train on, or take more steps",
            details,
        )
    if any(b > 0.3 and a < 0.7 * b for a, b in shares.values()):
        advice = "the background is not quite uniform: take more steps, or a time grid with more of them near t = 0"
        return Finding("note", "residual noise on plain backgrounds", text, advice, details)
    return Finding("ok", "saturation", text, details=details)


def variety(context: RunContext) -> Iterable[Finding]:
    """Whether samples are as diverse as real images."""
    samples, real = samples_and_data(context)
    yield from assess_variety(samples, real[torch.linspace(0, len(real) - 1, len(samples)).round().long()])


def assess_variety(samples: Tensor, real: Tensor) -> Iterable[Finding]:
    """The findings of ``variety`` for equally many uint8 samples and real images, (B, C, H, W) each."""
    (mean, nearest), (true_mean, true_nearest) = (_distances(images) for images in (samples, real))
    ratio, floor = mean / max(true_mean, 1e-9), float(true_nearest.min())
    same = nearest < min(0.5 * floor, 0.1 * true_mean) if floor > 0 else nearest == 0
    twins = int(same.sum())
    details = {"pairwise": mean, "data_pairwise": true_mean, "ratio": ratio, "twins": twins, "samples": len(samples)}
    text = f"mean distance between samples is {percent(ratio)} of that between real images"
    if twins > 0.02 * len(samples):
        yield Finding(
            "problem",
            "samples repeat each other",
            f"{twins} of {len(samples)} are nearer to another sample than half the least distance of real images: "
            f"{format_names(f'sample {i}' for i in same.nonzero()[:, 0].tolist())}",
            "the model has collapsed onto few images: train on more of them, for fewer num_images, or lower the "
            "learning rate of an adversarial one",
            details,
        )
    if ratio < 0.8:
        yield Finding(
            "problem" if ratio < 0.6 else "warning",
            "samples vary too little",
            text,
            "lower a guidance scale, draw other classes, or train on",
            details,
        )
    elif twins <= 0.02 * len(samples):
        yield Finding("ok", "variety", text, details=details)


def _distances(images: Tensor) -> tuple[float, Tensor]:
    """Mean distance over all pairs, and the distance of each image to its nearest neighbour, on thumbnails."""
    flat = thumbnails(images).flatten(1).double()
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    mean = float(distances.sum() / (len(flat) * (len(flat) - 1)))
    return mean, distances.fill_diagonal_(math.inf).amin(1)


def classes(context: RunContext) -> Iterable[Finding]:
    """Whether a classifier finds all classes among the samples, as frequently as among real images."""
    samples, real = samples_and_data(context)
    if context.features not in ("handwriting", "fashion"):
        raise UsageError(
            f"features {context.features!r} have no classes; only small grey digits or clothes are classified"
        )
    sampled, true = (_tally(context, images) for images in (samples, real))
    yield assess_classes(sampled, true)


def _tally(context: RunContext, images: Tensor) -> ClassAccumulator:
    tally = ClassAccumulator()
    for chunk in torch.split(images, _CHUNK):
        tally.update(context.extractor.classify(chunk))
    return tally


def assess_classes(sampled: ClassAccumulator, true: ClassAccumulator) -> Finding:
    """The finding of ``classes`` for two class counts."""
    present = (true.counts > 0.02 * true.count).nonzero()[:, 0].tolist()
    missing = [index for index in present if int(sampled.counts[index]) == 0]
    details: dict[str, Any] = {"histogram": sampled.histogram, "data_histogram": true.histogram}
    details |= {"balance": sampled.balance, "data_balance": true.balance, "missing": missing}
    details |= {"confident_share": sampled.confident_share, "data_confident_share": true.confident_share}
    text = (
        f"{len(present) - len(missing)} of {len(present)} classes, evenness {sampled.balance:.3f} against "
        f"{true.balance:.3f} of the data, {percent(sampled.confident_share)} named with confidence against "
        f"{percent(true.confident_share)}"
    )
    advice = "train on, or with system.class_conditional=true, and look at samples of the missing classes"
    if missing and sampled.count >= 15 * len(present):
        return Finding("problem", "classes are missing among samples", text, advice, details)
    if sampled.balance < 0.9 * true.balance:
        return Finding("warning", "classes are unbalanced among samples", text, advice, details)
    if sampled.confident_share < 0.5 * true.confident_share:
        return Finding(
            "note", "many samples belong to no class", text, "train on, or take more sampling steps", details
        )
    return Finding("ok", "classes of samples", text, details=details)


def coverage(context: RunContext) -> Iterable[Finding]:
    """Whether samples cover the real images, relative to other real images."""
    samples, _ = samples_and_data(context)
    real = context.real(2 * len(samples))
    if len(real) < 2 * len(samples):
        samples = samples[: len(real) // 2]
    if len(samples) < _MIN_SAMPLES:
        raise UsageError(f"coverage relative to real images needs {2 * _MIN_SAMPLES} of them, got {len(real)}")
    first, second = real[: 2 * len(samples) : 2], real[1 : 2 * len(samples) : 2]
    features = [context.extractor.features(images) for images in (first, second, samples)]
    result, scale = coverage_of(features[0], features[2]), coverage_of(features[0], features[1])
    yield assess_coverage(result.to_dict(), scale.to_dict(), context.features)


def assess_coverage(result: Mapping[str, Any], scale: Mapping[str, Any], features: str) -> Finding:
    """The finding of ``coverage`` for two results of ``metrics.coverage``."""
    keys = ("precision", "recall", "coverage")
    text = ", ".join(f"{key} {result[key]:.2f} (real images {scale[key]:.2f})" for key in keys)
    text += f" on {count_noun(int(result['num_generated']))} and {features} features"
    details = {"samples": dict(result), "real": dict(scale), "features": features}
    low = min(result[key] / max(scale[key], 1e-9) for key in ("recall", "coverage"))
    if low < 0.4:
        return Finding(
            "warning", "samples miss parts of the data", text, "train on, or lower a guidance scale", details
        )
    if low < 0.7:
        return Finding("note", "samples cover less than real images do", text, "train on", details)
    return Finding("ok", "coverage", text, details=details)
