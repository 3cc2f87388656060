"""Metrics of images that compare two sets, or describe one relative to the other, from their summaries alone."""

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
from undiffuse.metrics.summary import MAX_DIM, SetSummary

FRECHET_GROUPS = 10  # of its jackknife
NEIGHBOURS = 5  # that span the manifold of precision and recall
_PAIRS = 500  # of images whose perceptual distance is taken


#: Metrics over the features of a summary, and those of them that read only one side of it.
OVER_FEATURES = ("frechet", "kernel", "inception_score", "precision_recall", "classes")


class Sets(Protocol):
    """Generated and real images, each read in one pass when a metric first needs them."""

    @property
    def extractor(self) -> FeatureExtractor: ...

    @property
    def num_features(self) -> int: ...

    @property
    def num_generated(self) -> int: ...

    @property
    def num_real(self) -> int: ...

    @property
    def generated(self) -> SetSummary: ...

    @property
    def real(self) -> SetSummary: ...

    def some_generated(self, count: int) -> Tensor: ...

    def some_real(self, count: int) -> Tensor: ...

    def about_generated(self) -> dict[str, Any]: ...

    def about_real(self) -> dict[str, Any]: ...


def classifies(extractor: FeatureExtractor) -> bool:
    """Whether an extractor has class probabilities as well."""
    return extractor.num_classes is not None


def summarises(num_features: int) -> bool:
    """Whether a summary of so many features fits into memory."""
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
    """Refuse, before any image is sampled or read, a metric that these sets are too small or the features unfit for.

    Raises:
        UsageError: says how many images the metric needs, or which features.
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
        load_lpips()  # says where its weights go if they are not there
    given = sets.num_generated if metric == "classes" else min(sets.num_generated, sets.num_real)
    if metric == "frechet":
        check_enough(given, sets.num_features, FRECHET_GROUPS)
    elif given < (needed := images_needed(metric, sets.num_features)):
        raise UsageError(f"metric {metric!r} needs at least {needed} images on each side, got {given}; give more")


def _name(family: str, published: str, extractor: FeatureExtractor) -> str:
    """A published metric's own name belongs to Inception-v3's features alone."""
    return published if extractor.published_names else f"{family}_{extractor.name}"


def _stated(sets: Sets, real: bool = True) -> dict[str, Any]:
    return {**sets.extractor.protocol(), **(sets.about_real() if real else {}), **sets.about_generated()}


def frechet(sets: Sets) -> list[Result]:
    """Fréchet distance of the images from real ones, over features that the result names."""
    check_images(sets, "frechet")
    estimate = frechet_estimate(sets.generated.statistics, sets.real.statistics)
    stated = {**_stated(sets), "estimate": estimate.to_dict()}
    name = _name("frechet", "fid", sets.extractor)
    return [Result(name, estimate.value, "squared feature units", estimate.standard_error, "lower", stated)]


def kernel(sets: Sets) -> list[Result]:
    """Kernel distance (the squared MMD with a cubic kernel): without bias, so it compares at unequal counts too."""
    check_images(sets, "kernel")
    estimate = kernel_distance(sets.generated.features.rows, sets.real.features.rows)
    stated = {**_stated(sets), "estimate": estimate.to_dict()}
    name = _name("kernel", "kid", sets.extractor)
    return [Result(name, estimate.value, "squared MMD", estimate.standard_error, "lower", stated)]


def inception_score(sets: Sets) -> list[Result]:
    """exp of the mutual information between image and predicted class; reported with that of real images."""
    check_images(sets, "inception_score")
    scored, real = _tally(sets.generated.score), _tally(sets.real.score)
    name = _name("score", "inception_score", sets.extractor)
    stated = {**_stated(sets), "estimate": scored.to_dict()}
    details = {"real_pictures": real.to_dict()}
    return [Result(name, scored.score, "classes", scored.standard_error, "higher", stated, details)]


def _tally(score: InceptionScoreAccumulator | None) -> InceptionScoreAccumulator:
    if score is None:
        raise UsageError("these features have no classes; take --features handwriting, fashion or inception")
    return score


def classes(sets: Sets) -> list[Result]:
    """Share of images that a classifier names with confidence, and how evenly it names the classes."""
    check_images(sets, "classes")
    tally = sets.generated.classes
    assert isinstance(tally, ClassAccumulator)
    stated = {**_stated(sets, real=False), "confident_from": tally.confident}
    details, share, error = tally.to_dict(), tally.confident_share, tally.confident_share_error
    return [
        Result("confident_share", share, "share", error, "higher", stated, details),
        Result("class_balance", tally.balance, "entropy / log K", None, "higher", stated, details),
    ]


def precision_recall(sets: Sets) -> list[Result]:
    """Precision and density: do the images look real? Recall and coverage: do they show all that is real?"""
    check_images(sets, "precision_recall")
    real, generated = _as_many(sets.real.features, sets.generated.features)
    found = coverage(real, generated, k=NEIGHBOURS)
    stated = {**_stated(sets), "estimate": found.to_dict()}
    return [
        Result("precision", found.precision, "share", found.precision_error, "higher", stated),
        Result("recall", found.recall, "share", found.recall_error, "higher", stated),
        Result("density", found.density, "1 where alike", found.density_error, "near 1", stated),
        Result("coverage", found.coverage, "share", found.coverage_error, "higher", stated),
    ]


def _as_many(a: ReservoirSample, b: ReservoirSample) -> tuple[Tensor, Tensor]:
    """As many rows of both as the smaller has: the radius of a manifold shrinks with the count."""
    count = min(len(a), len(b))
    return a.reduced(count).rows, b.reduced(count).rows


def lpips_diversity(sets: Sets) -> list[Result]:
    """Mean perceptual distance between pairs of images, reported with that between pairs of real ones."""
    check_images(sets, "lpips_diversity")
    lpips = load_lpips()
    made, real = (_pair_distances(lpips.distance, some(2 * _PAIRS)) for some in (sets.some_generated, sets.some_real))
    stated = {**_stated(sets), **lpips.protocol(), "pairs": len(made), "real_pairs": len(real)}
    details = {
        "real_pictures": float(real.mean()),
        "real_pictures_uncertainty": _error(real),
        "share_of_real": float(made.mean() / real.mean()) if float(real.mean()) > 0 else None,
    }
    value = float(made.mean())
    return [Result("lpips_diversity", value, "LPIPS", _error(made), "near that of real images", stated, details)]


def _pair_distances(distance: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> Tensor:
    """Distances (P,) of disjoint random pairs: neighbours in a folder, or classes in turn, are no fair ones."""
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
