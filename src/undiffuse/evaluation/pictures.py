"""Metrics of pictures: a distance of distributions, what a classifier says, and whether anything is copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result, Subject, need_pictures, spread
from undiffuse.metrics.classification import ClassTally
from undiffuse.metrics.distances import check_enough, frechet_estimate
from undiffuse.metrics.features import FeatureExtractor
from undiffuse.metrics.neighbours import Neighbours, nearest_neighbours, summarise_copying
from undiffuse.metrics.statistics import GroupedStatistics

FRECHET_GROUPS = 10  # of its jackknife
_CLOSEST = 16  # samples that a copying result names


def statistics_of(extractor: FeatureExtractor, images: Tensor) -> GroupedStatistics:
    """Feature statistics of pictures (N, C, H, W), chunk by chunk."""
    first = extractor.features(images[:1])
    statistics = GroupedStatistics(first.shape[1])
    for start in range(0, len(images), CHUNK):
        statistics.update(extractor.features(images[start : start + CHUNK]))
    return statistics


def frechet(subject: Subject) -> list[Result]:
    """Fréchet distance of samples from training pictures, over features that the result names. It is not FID."""
    need_pictures(subject, "frechet")
    extractor = subject.extractor
    real = spread(subject.train, max(subject.protocol.num, 5000))
    check_enough(min(subject.protocol.num, len(real)), subject.num_features, FRECHET_GROUPS)
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
    need_pictures(subject, "classes")
    extractor = subject.extractor
    tally = ClassTally()
    for start in range(0, len(subject.samples), CHUNK):
        tally.update(extractor.classify(subject.samples[start : start + CHUNK]))
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
    need_pictures(subject, "copying")
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
