"""Measures of a set of pictures: features, distances, class shares, nearest neighbours. Imports no torch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.metrics.features import FEATURES, FeatureExtractor, load_features
from undiffuse.registry import resolve

if TYPE_CHECKING:
    from undiffuse.metrics.classification import ClassTally
    from undiffuse.metrics.distances import FrechetEstimate, check_enough, frechet_distance, frechet_estimate
    from undiffuse.metrics.neighbours import (
        CopyingSummary,
        Neighbours,
        copying_summary,
        nearest_neighbours,
        summarise_copying,
    )
    from undiffuse.metrics.pixels import check_pictures, resize_pictures
    from undiffuse.metrics.statistics import GaussianStatistics, GroupedStatistics

__all__ = [
    "FEATURES",
    "ClassTally",
    "CopyingSummary",
    "FeatureExtractor",
    "FrechetEstimate",
    "GaussianStatistics",
    "GroupedStatistics",
    "Neighbours",
    "check_enough",
    "check_pictures",
    "copying_summary",
    "frechet_distance",
    "frechet_estimate",
    "load_features",
    "nearest_neighbours",
    "resize_pictures",
    "summarise_copying",
]

_HOMES = {
    "classification": ("ClassTally",),
    "distances": ("FrechetEstimate", "check_enough", "frechet_distance", "frechet_estimate"),
    "neighbours": ("CopyingSummary", "Neighbours", "copying_summary", "nearest_neighbours", "summarise_copying"),
    "pixels": ("check_pictures", "resize_pictures"),
    "statistics": ("GaussianStatistics", "GroupedStatistics"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return resolve(f"undiffuse.metrics.{home}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
