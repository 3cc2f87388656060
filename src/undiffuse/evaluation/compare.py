"""Comparing two sets of images from any source by the metrics of ``PAIR_METRICS``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from undiffuse.data.audit import evenly_spaced
from undiffuse.evaluation.accuracy import accuracy_between
from undiffuse.evaluation.base import Result, evenly_spaced_subset, with_protocol
from undiffuse.evaluation.image_metrics import (
    check_images,
    classes,
    classifies,
    frechet,
    images_needed,
    inception_score,
    kernel,
    lpips_diversity,
    precision_recall,
    summarises,
)
from undiffuse.evaluation.memorisation import max_queries, neighbour_results, search
from undiffuse.evaluation.pair import Pair, about_set
from undiffuse.evaluation.provenance import hardware, software
from undiffuse.registry import lookup

_REFERENCE_IMAGES = 2000  # real images whose distances to their nearest real neighbours are the reference


def memorisation_between(pair: Pair) -> list[Result]:
    """Memorisation: distances to the nearest real image, relative to those among real images."""
    check_images(pair, "copying")
    rows = evenly_spaced(len(pair.real_set), min(pair.num_real, _REFERENCE_IMAGES, max_queries(pair.real_set)))
    among, generated = (
        evenly_spaced(len(pair.real_set), pair.num_real),
        evenly_spaced_subset(pair.generated_set, min(pair.num_generated, max_queries(pair.generated_set))),
    )
    among = np.union1d(among, rows)
    searches = search(
        generated,
        evenly_spaced_subset(pair.real_set, len(rows)),
        pair.real_set.subset(among),
        pair.extractor,
        _positions(rows, among),
    )
    entries = {
        "distance": "L2",
        "scale": f"{len(rows)} real images to their nearest among the others",
        **pair.about_real(),
        **pair.about_generated(),
        "searched": len(generated),
    }
    return neighbour_results(searches, entries, pair.extractor, [])


def _positions(rows: Any, among: Any) -> Any:
    return np.searchsorted(among, rows)


PAIR_METRICS: dict[str, Callable[[Pair], list[Result]]] = {
    "frechet": frechet,
    "kernel": kernel,
    "inception_score": inception_score,
    "precision_recall": precision_recall,
    "lpips_diversity": lpips_diversity,
    "accuracy": accuracy_between,
    "classes": classes,
    "copying": memorisation_between,
}


def default_pair_metrics(pair: Pair) -> tuple[list[str], str]:
    """The metrics with enough images in both sets, and a line on the skipped ones, or ""."""
    distances = ["frechet", "kernel", "precision_recall"] if summarises(pair.num_features) else []
    names = [*distances, *(["inception_score", "classes"] if classifies(pair.extractor) else []), "copying"]
    given = min(pair.num_generated, pair.num_real)
    needed = {name: images_needed(name, pair.num_features) for name in names}
    skipped = [f"{name} ({needed[name]})" for name in names if given < needed[name]]
    note = f"skipped for lack of images, {given} given: {', '.join(skipped)}" if skipped else ""
    return [name for name in names if given >= needed[name]], note


def compare_sets(pair: Pair, metrics: Sequence[str]) -> dict[str, Any]:
    """All results as plain values for JSON.

    Raises:
        UsageError: an unknown metric, too few images for one, or features that do not fit.
    """
    rows = {name: lookup(PAIR_METRICS, name, "metric") for name in metrics}
    for name in rows:
        check_images(pair, name)
    results = [result for name, row in rows.items() for result in _results(pair, name, row)]
    return {
        "results": results,
        "pictures": about_set(pair.generated_set, pair.num_generated),  # data
        "reference": about_set(pair.real_set, pair.num_real),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **software(),
        "hardware": hardware(),
    }


def _results(pair: Pair, name: str, row: Callable[[Pair], list[Result]]) -> list[dict[str, Any]]:
    key: Mapping[str, Any] = {
        "metric": name,
        "pictures": pair.generated_set.fingerprint,  # data
        "num_pictures": pair.num_generated,
        "reference": pair.real_set.fingerprint,
        "num_reference": pair.num_real,
        "features": pair.extractor.protocol(),
    }

    def compute() -> list[dict[str, Any]]:
        return [with_protocol(result.to_dict(), software=software(), hardware=hardware()) for result in row(pair)]

    sets = {**pair.about_generated(), **pair.about_real()}  # the paths may have changed since the result was cached
    return [
        with_protocol(result, **{key: value for key, value in sets.items() if key in result["protocol"]})
        for result in pair.cache.results(key, compute)
    ]
