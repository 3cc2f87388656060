"""Two sets of pictures against each other, whatever made them, by the metrics that models are measured with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.data.decoding.remarks import stored_with
from undiffuse.errors import UsageError
from undiffuse.evaluation.accuracy import accuracy_between
from undiffuse.evaluation.base import Result, spread, stating
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.copying import most, neighbour_results, search
from undiffuse.evaluation.gather import Told, summary_of
from undiffuse.evaluation.pictures import (
    check_pictures,
    classes,
    classifies,
    frechet,
    inception_score,
    kernel,
    lpips_diversity,
    pictures_needed,
    precision_recall,
    summarises,
)
from undiffuse.evaluation.provenance import hardware, software
from undiffuse.metrics.features import FeatureExtractor, pick_features
from undiffuse.metrics.summary import SetSummary
from undiffuse.registry import lookup

_SCALE_IMAGES = 2000  # pictures of the real set whose neighbours in it give a copying result its scale


@dataclass
class Pair:
    """Two sets of pictures of one shape.

    Args:
        made: the pictures to judge.
        held: the real ones that they are judged by.
        num: of each at most, evenly spaced; ``None`` for all.
        features: a row of ``metrics.FEATURES``; ``auto`` picks by the pictures.
        cache: of summaries and results; by default nothing is kept.
        tell: called with (pictures read, pictures to read).
    Raises:
        UsageError: points, or pictures of two shapes.
    """

    made: Dataset
    held: Dataset
    num: int | None = None
    features: str = "auto"
    cache: Cache = field(default_factory=lambda: Cache(None))
    tell: Told | None = None

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise UsageError(f"num must be at least 1, got {self.num}")
        for dataset in (self.made, self.held):
            if not dataset.space.is_image:
                raise UsageError(f"sets of pictures are compared, {dataset.name!r} holds points of {dataset.shape}")
        if self.made.shape != self.held.shape:
            raise UsageError(
                f"pictures of shape {self.made.shape} and {self.held.shape} (channels, height, width) do not compare; "
                "bring them to one size and one number of channels"
            )

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The features asked for, or those that fit the real pictures."""
        origin = " ".join([self.held.name, *self.held.provenance.values(), *self.held.class_names])
        return pick_features(self.features, self.held.shape, origin)

    @property
    def num_features(self) -> int:
        """The features of one picture."""
        return self.extractor.dim or math.prod(self.held.shape)

    @property
    def num_generated(self) -> int:
        """How many pictures are judged."""
        return min(len(self.made), self.num or len(self.made))

    @property
    def num_real(self) -> int:
        """How many real pictures they are judged by."""
        return min(len(self.held), self.num or len(self.held))

    @cached_property
    def generated(self) -> SetSummary:
        """The summary of the pictures to judge."""
        return summary_of(self.made, self.num_generated, self.extractor, self.cache, self.tell)

    @cached_property
    def real(self) -> SetSummary:
        """The summary of the real ones."""
        return summary_of(self.held, self.num_real, self.extractor, self.cache, self.tell)

    def some_generated(self, count: int) -> Tensor:
        """``count`` of the pictures to judge, evenly spaced over the set."""
        return spread(self.made, min(count, self.num_generated))

    def some_real(self, count: int) -> Tensor:
        """``count`` of the real ones, evenly spaced over the set."""
        return spread(self.held, min(count, self.num_real))

    def about_generated(self) -> dict[str, Any]:
        """What a result says about the pictures to judge."""
        return {"pictures": _about(self.made, self.num_generated)}

    def about_real(self) -> dict[str, Any]:
        """What a result says about the real ones."""
        return {"reference": _about(self.held, self.num_real), "reference_images": self.num_real}


def _about(dataset: Dataset, num: int) -> dict[str, Any]:
    stated: dict[str, Any] = {key: dataset.provenance.get(key) for key in ("source", "options")}
    stated |= stored_with(dataset.provenance)
    return {"num": num, "of": len(dataset), "set": dataset.name, **stated, "data_fingerprint": dataset.fingerprint}


def copying_between(pair: Pair) -> list[Result]:
    """Distances to the nearest real picture, beside those of real pictures to the others of their set."""
    check_pictures(pair, "copying")
    rows = evenly_spaced(len(pair.held), min(pair.num_real, _SCALE_IMAGES, most(pair.held)))
    among, made = (
        evenly_spaced(len(pair.held), pair.num_real),
        spread(pair.made, min(pair.num_generated, most(pair.made))),
    )
    among = np.union1d(among, rows)
    searches = search(made, spread(pair.held, len(rows)), pair.held.subset(among), pair.extractor, _places(rows, among))
    stated = {
        "distance": "L2",
        "scale": f"{len(rows)} real pictures to their nearest among the others",
        **pair.about_real(),
        **pair.about_generated(),
        "searched": len(made),
    }
    return neighbour_results(searches, stated, pair.extractor, [])


def _places(rows: Any, among: Any) -> Any:
    return np.searchsorted(among, rows)


PAIR_METRICS: dict[str, Callable[[Pair], list[Result]]] = {
    "frechet": frechet,
    "kernel": kernel,
    "inception_score": inception_score,
    "precision_recall": precision_recall,
    "lpips_diversity": lpips_diversity,
    "accuracy": accuracy_between,
    "classes": classes,
    "copying": copying_between,
}


def default_pair_metrics(pair: Pair) -> tuple[list[str], str]:
    """The metrics that these sets are large enough for, and a line on what was left out, or ""."""
    compared = ["frechet", "kernel", "precision_recall"] if summarises(pair.num_features) else []
    names = [*compared, *(["inception_score", "classes"] if classifies(pair.extractor) else []), "copying"]
    fewest = min(pair.num_generated, pair.num_real)
    needed = {name: pictures_needed(name, pair.num_features) for name in names}
    short = [f"{name} ({needed[name]})" for name in names if fewest < needed[name]]
    note = f"left out for want of pictures, {fewest} given: {', '.join(short)}" if short else ""
    return [name for name in names if fewest >= needed[name]], note


def compare_sets(pair: Pair, metrics: Sequence[str]) -> dict[str, Any]:
    """All results as plain values for JSON.

    Raises:
        UsageError: an unknown metric, too few pictures for one, or features that do not fit.
    """
    rows = {name: lookup(PAIR_METRICS, name, "metric") for name in metrics}
    for name in rows:
        check_pictures(pair, name)
    results = [result for name, row in rows.items() for result in _results(pair, name, row)]
    return {
        "results": results,
        "pictures": _about(pair.made, pair.num_generated),
        "reference": _about(pair.held, pair.num_real),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **software(),
        "hardware": hardware(),
    }


def _results(pair: Pair, name: str, row: Callable[[Pair], list[Result]]) -> list[dict[str, Any]]:
    facts: Mapping[str, Any] = {
        "metric": name,
        "pictures": pair.made.fingerprint,
        "num_pictures": pair.num_generated,
        "reference": pair.held.fingerprint,
        "num_reference": pair.num_real,
        "features": pair.extractor.protocol(),
    }

    def make() -> list[dict[str, Any]]:
        return [stating(result.to_dict(), software=software(), hardware=hardware()) for result in row(pair)]

    sets = {**pair.about_generated(), **pair.about_real()}  # they may have lain elsewhere when the cache was filled
    return [
        stating(result, **{key: value for key, value in sets.items() if key in result["protocol"]})
        for result in pair.cache.results(facts, make)
    ]
