"""Evaluating a model: sample, extract features, compare; each number with the protocol that made it.

A metric is one row of ``METRICS``: a function of a ``Subject``, which holds the model, the real pictures of both splits
and, drawn once and shared by all metrics, the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from undiffuse.evaluation.base import Protocol, Result, Subject, features_for, hardware, spread
from undiffuse.evaluation.likelihood import bound_grid, continuous, nll, vlb, vlb_random
from undiffuse.evaluation.pictures import FRECHET_GROUPS, classes, copying, frechet, statistics_of
from undiffuse.evaluation.points import sliced
from undiffuse.registry import lookup
from undiffuse.version import __version__

__all__ = [
    "METRICS",
    "Protocol",
    "Result",
    "Subject",
    "bound_grid",
    "check_metrics",
    "default_metrics",
    "evaluate",
    "features_for",
    "hardware",
    "spread",
    "statistics_of",
]

METRICS: dict[str, Callable[[Subject], list[Result]]] = {
    "nll": nll,
    "vlb": vlb,
    "vlb_random": vlb_random,
    "continuous_bound": continuous,
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
    needed, given = max(subject.num_features + 1, 2 * FRECHET_GROUPS), min(subject.protocol.num, trained_on)
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
