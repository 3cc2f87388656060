"""Metrics of sets of images: features, distances, class shares, nearest neighbours. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import FEATURES, load_features
from undiffuse.registry import resolve

if TYPE_CHECKING:
    from undiffuse.metrics.classification import ClassAccumulator
    from undiffuse.metrics.colour import ColourAccumulator
    from undiffuse.metrics.coverage import Coverage, expected_coverage
    from undiffuse.metrics.distances import FrechetEstimate, check_enough, frechet_distance, frechet_estimate
    from undiffuse.metrics.inception_score import InceptionScoreAccumulator
    from undiffuse.metrics.kernel import KernelEstimate, kernel_distance
    from undiffuse.metrics.neighbours import (
        CopyingSummary,
        Neighbours,
        copying_summary,
        nearest_neighbours,
        summarise_copying,
    )
    from undiffuse.metrics.pixels import check_images, resize_images
    from undiffuse.metrics.reservoir import ReservoirSample
    from undiffuse.metrics.statistics import GaussianStatistics, GroupedStatistics
    from undiffuse.metrics.summary import ImageSetStatistics

__all__ = [
    "FEATURES",
    "ClassAccumulator",
    "ColourAccumulator",
    "CopyingSummary",
    "Coverage",
    "FeatureExtractor",
    "FrechetEstimate",
    "GaussianStatistics",
    "GroupedStatistics",
    "ImageSetStatistics",
    "InceptionScoreAccumulator",
    "KernelEstimate",
    "Neighbours",
    "ReservoirSample",
    "check_enough",
    "check_images",
    "copying_summary",
    "expected_coverage",
    "frechet_distance",
    "frechet_estimate",
    "kernel_distance",
    "load_features",
    "nearest_neighbours",
    "resize_images",
    "summarise_copying",
]

#: Public names by module. The function ``coverage`` is not exported: its module already has that name.
_MODULES = {
    "reservoir": ("ReservoirSample",),
    "classification": ("ClassAccumulator",),
    "colour": ("ColourAccumulator",),
    "coverage": ("Coverage", "expected_coverage"),
    "distances": ("FrechetEstimate", "check_enough", "frechet_distance", "frechet_estimate"),
    "inception_score": ("InceptionScoreAccumulator",),
    "kernel": ("KernelEstimate", "kernel_distance"),
    "neighbours": ("CopyingSummary", "Neighbours", "copying_summary", "nearest_neighbours", "summarise_copying"),
    "pixels": ("check_images", "resize_images"),
    "statistics": ("GaussianStatistics", "GroupedStatistics"),
    "summary": ("ImageSetStatistics",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return resolve(f"undiffuse.metrics.{module}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
