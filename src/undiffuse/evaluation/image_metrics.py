"""Metrics of images that compare two sets, or describe one relative to the other, from their summaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result
from undiffuse.metrics.classification import ClassAccumulator
from undiffuse.metrics.coverage import coverage
from undiffuse.metrics.distances import check_enough, frechet_estimate
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.inception_score import InceptionScoreAccumulator
from undiffuse.metrics.kernel import kernel_distance
from undiffuse.metrics.perceptual import load_lpips
from undiffuse.metrics.reservoir import ReservoirSample
from undiffuse.metrics.summary import MAX_DIM, ImageSetStatistics

FRECHET_GROUPS = 10  # of its jackknife
NEIGHBOURS = 5  # k of precision and recall
_PAIRS = 500  # of images whose perceptual distance is computed


#: Metrics over the features of a summary.
OVER_FEATURES = ("frechet", "kernel", "inception_score", "precision_recall", "classes")


class Sets(Protocol):
    """Generated and real images, each read in one pass when first needed."""

    @property
    def extractor(self) -> FeatureExtractor: ...

    @property
    def num_features(self) -> int: ...

    @property
    def num_generated(self) -> int: ...

    @property
    def num_real(self) -> int: ...

    @property
    def generated(self) -> ImageSetStatistics: ...

    @property
    def real(self) -> ImageSetStatistics: ...

    def generated_subset(self, count: int) -> Tensor: ...

    def real_subset(self, count: int) -> Tensor: ...

    def about_generated(self) -> dict[str, Any]: ...

    def about_real(self) -> dict[str, Any]: ...


def classifies(extractor: FeatureExtractor) -> bool:
    """Whether an extractor also returns class probabilities."""
    return extractor.num_classes is not None


def summarises(num_features: int) -> bool:
    """Whether a summary of this many features fits into memory."""
    return num_features <= MAX_DIM


def images_needed(metric: str, num_features: int) -> int:
    """The images that a metric needs on each side to be meaningful."""
    needed: dict[str, int] = {
        "frechet": max(num_features + 1, 2 * FRECHET_GROUPS),
        "kernel": 2 * NEIGHBOURS,
        "precision_recall": 2 * NEIGHBOURS,
        "inception_score": 2 * FRECHET_GROUPS,
        "lpips_diversity": 4,
        "accuracy": 4,
        "copying": 2,
    }
    return needed.get(metric, 1)


def check_images(sets: Sets, metric: str) -> None:
    """Check, before any image is sampled or read, that a metric has enough images and suitable features.

    Raises:
        UsageError: with the number of images, or the features, that the metric needs.
    """
    if metric in ("inception_score", "classes") and not classifies(sets.extractor):
        raise UsageError(
            f"metric {metric!r} needs features that name classes, {sets.extractor.name!r} do not; take --features "
            "handwriting, fashion or inception"
        )
    if metric in OVER_FEATURES and not summarises(sets.num_features):
        raise UsageError(
            f"metric {metric!r} takes up to {MAX_DIM} features, {sets.extractor.name!r} of these images are "
            f"{sets.num_features}; take --features efficientnet or inception"
        )
    if metric == "lpips_diversity":
        load_lpips()  # raises UsageError if its weights are missing
    given = sets.num_generated if metric == "classes" else min(sets.num_generated, sets.num_real)
    if metric == "frechet":
        check_enough(given, sets.num_features, FRECHET_GROUPS)
    elif given < (needed := images_needed(metric, sets.num_features)):
        raise UsageError(f"metric {metric!r} needs at least {needed} images on each side, got {given}; give more")


def _name(family: str, published: str, extractor: FeatureExtractor) -> str:
    """A metric's name; the published names (FID, KID, inception score) are only for Inception-v3 features."""
    return published if extractor.published_names else f"{family}_{extractor.name}"


def _entries(sets: Sets, real: bool = True) -> dict[str, Any]:
    return {**sets.extractor.protocol(), **(sets.about_real() if real else {}), **sets.about_generated()}


def frechet(sets: Sets) -> list[Result]:
    """Fréchet distance of the images from real ones, over features that the result names."""
    check_images(sets, "frechet")
    estimate = frechet_estimate(sets.generated.statistics, sets.real.statistics)
    entries = {**_entries(sets), "estimate": estimate.to_dict()}
    name = _name("frechet", "fid", sets.extractor)
    return [Result(name, estimate.value, "squared feature units", estimate.standard_error, "lower", entries)]


def kernel(sets: Sets) -> list[Result]:
    """Kernel distance (the squared MMD with a cubic kernel): unbiased, so values at different counts compare."""
    check_images(sets, "kernel")
    estimate = kernel_distance(sets.generated.features.rows, sets.real.features.rows)
    entries = {**_entries(sets), "estimate": estimate.to_dict()}
    name = _name("kernel", "kid", sets.extractor)
    return [Result(name, estimate.value, "squared MMD", estimate.standard_error, "lower", entries)]


def inception_score(sets: Sets) -> list[Result]:
    """exp of the mutual information between image and predicted class, reported with the value for real images."""
    check_images(sets, "inception_score")
    scored, real = _tally(sets.generated.score), _tally(sets.real.score)
    name = _name("score", "inception_score", sets.extractor)
    entries = {**_entries(sets), "estimate": scored.to_dict()}
    details = {"real_pictures": real.to_dict()}
    return [Result(name, scored.score, "classes", scored.standard_error, "higher", entries, details)]


def _tally(score: InceptionScoreAccumulator | None) -> InceptionScoreAccumulator:
    if score is None:
        raise UsageError("these features have no classes; take --features handwriting, fashion or inception")
    return score


def classes(sets: Sets) -> list[Result]:
    """Fraction of images that are classified with confidence, and the balance of the predicted classes."""
    check_images(sets, "classes")
    tally = sets.generated.classes
    assert isinstance(tally, ClassAccumulator)
    entries = {**_entries(sets, real=False), "confident_from": tally.confident}
    details, share, error = tally.to_dict(), tally.confident_share, tally.confident_share_error
    return [
        Result("confident_share", share, "share", error, "higher", entries, details),
        Result("class_balance", tally.balance, "entropy / log K", None, "higher", entries, details),
    ]


def precision_recall(sets: Sets) -> list[Result]:
    """Precision and density measure fidelity, recall and coverage measure diversity."""
    check_images(sets, "precision_recall")
    real, generated = _equal_counts(sets.real.features, sets.generated.features)
    found = coverage(real, generated, k=NEIGHBOURS)
    entries = {**_entries(sets), "estimate": found.to_dict()}
    return [
        Result("precision", found.precision, "share", found.precision_error, "higher", entries),
        Result("recall", found.recall, "share", found.recall_error, "higher", entries),
        Result("density", found.density, "1 where alike", found.density_error, "near 1", entries),
        Result("coverage", found.coverage, "share", found.coverage_error, "higher", entries),
    ]


def _equal_counts(a: ReservoirSample, b: ReservoirSample) -> tuple[Tensor, Tensor]:
    """The same number of rows of both, since the radius of the balls shrinks with the count."""
    count = min(len(a), len(b))
    return a.reduced(count).rows, b.reduced(count).rows


def lpips_diversity(sets: Sets) -> list[Result]:
    """Mean perceptual distance between pairs of images, reported with the same of real images."""
    check_images(sets, "lpips_diversity")
    lpips = load_lpips()
    generated, real = (
        _pair_distances(lpips.distance, subset(2 * _PAIRS)) for subset in (sets.generated_subset, sets.real_subset)
    )
    entries = {**_entries(sets), **lpips.protocol(), "pairs": len(generated), "real_pairs": len(real)}
    details = {
        "real_pictures": float(real.mean()),
        "real_pictures_uncertainty": _error(real),
        "share_of_real": float(generated.mean() / real.mean()) if float(real.mean()) > 0 else None,
    }
    value = float(generated.mean())
    return [Result("lpips_diversity", value, "LPIPS", _error(generated), "near that of real images", entries, details)]


def _pair_distances(distance: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> Tensor:
    """Distances (P,) of disjoint random pairs; consecutive images may be related or cycle through the classes."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    half = len(order) // 2
    first, second = order[:half], order[half : 2 * half]
    parts = [
        distance(images[first[start : start + CHUNK]], images[second[start : start + CHUNK]])
        for start in range(0, half, CHUNK)
    ]
    return torch.cat(parts)


def _error(values: Tensor) -> float | None:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
