"""Evaluating a model: sample, extract features, compare; each number with the protocol that made it.

A metric is one row of ``METRICS``: a function of a ``Subject``, which holds the model, the real pictures of both splits
and, drawn once and summed up for all metrics, the samples. Two sets of pictures without a model are a ``Pair``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from undiffuse.evaluation.accuracy import accuracy, check_accuracy
from undiffuse.evaluation.base import Protocol, Result, spread, stating
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.compare import PAIR_METRICS, compare_sets, default_pair_metrics
from undiffuse.evaluation.copying import check_copying, copying
from undiffuse.evaluation.likelihood import bound_grid, continuous, nll, vlb, vlb_random
from undiffuse.evaluation.modes import check_modes, has_modes, modes
from undiffuse.evaluation.pair import Pair
from undiffuse.evaluation.pictures import (
    OVER_FEATURES,
    check_images,
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
from undiffuse.evaluation.points import sliced
from undiffuse.evaluation.provenance import averaging, hardware, software
from undiffuse.evaluation.subject import Subject, need_held_out, need_pictures
from undiffuse.models.base import DenoisingModel
from undiffuse.registry import lookup
from undiffuse.version import __version__

__all__ = [
    "METRICS",
    "PAIR_METRICS",
    "Cache",
    "Pair",
    "Protocol",
    "Result",
    "Subject",
    "bound_grid",
    "check_metrics",
    "compare_sets",
    "default_metrics",
    "default_pair_metrics",
    "evaluate",
    "hardware",
    "spread",
]

METRICS: dict[str, Callable[[Subject], list[Result]]] = {
    "nll": nll,
    "vlb": vlb,
    "vlb_random": vlb_random,
    "continuous_bound": continuous,
    "frechet": frechet,
    "kernel": kernel,
    "inception_score": inception_score,
    "precision_recall": precision_recall,
    "lpips_diversity": lpips_diversity,
    "accuracy": accuracy,
    "classes": classes,
    "modes": modes,
    "copying": copying,
    "sliced_wasserstein": sliced,
}


def default_metrics(subject: Subject) -> tuple[list[str], str]:
    """The metrics that make sense for a model and a number of samples, and a line on what was left out, or ""."""
    if not subject.pictures:
        return ["sliced_wasserstein", *(["modes"] if has_modes(subject) else [])], ""
    compared, left_out = _compared(subject)
    compared += ["modes"] if has_modes(subject) else []
    denoises = isinstance(subject.model.module, DenoisingModel)
    wanted = {"copying": 2, **({"vlb": 1} if denoises else {})}
    beside = [name for name, fewest in wanted.items() if len(subject.held_out) >= fewest]
    if len(beside) < len(wanted):
        left_out.append(
            f"{len(subject.held_out)} held-out pictures are too few for {' and '.join(wanted)}: give others with "
            "--data, or train with a data.validation_fraction above 0"
        )
    return [*compared, *beside], "; ".join(left_out)


def _compared(subject: Subject) -> tuple[list[str], list[str]]:
    """The metrics over features that there are enough pictures for, and what to say of the others."""
    if not summarises(subject.num_features):
        return [], [
            f"no distances: {subject.num_features} {subject.extractor.name} features are too many for them; take "
            "--features efficientnet or inception"
        ]
    judging = ["inception_score", "classes"] if classifies(subject.extractor) else []
    given = min(subject.protocol.num, subject.num_real)
    compared = ["frechet", "kernel", "precision_recall", *judging]
    few = [name for name in compared if given < pictures_needed(name, subject.num_features)]
    return [name for name in compared if name not in few], [_left_out(subject, few)] if few else []


def _left_out(subject: Subject, few: list[str]) -> str:
    needed = max(pictures_needed(name, subject.num_features) for name in few)
    trained_on = subject.model.config["data"]["train"]
    way = (
        f"ask for it with --metrics {','.join(few)} --num {needed}"
        if trained_on >= needed
        else f"the model's {trained_on} training pictures are too few for it"
    )
    what = ", ".join("Fréchet distance" if name == "frechet" else name for name in few)
    return (
        f"no {what}: on {subject.num_features} {subject.extractor.name} features it needs {needed} samples, --num is "
        f"{subject.protocol.num}; {way}"
    )


def check_metrics(names: Sequence[str]) -> None:
    """Refuse an unknown metric before anything is computed."""
    for name in names:
        lookup(METRICS, name, "metric")


def evaluate(subject: Subject, metrics: Sequence[str]) -> dict[str, Any]:
    """All results as plain values for JSON, with what they were computed on.

    Results that the subject's cache holds are taken from there, and say so.

    Raises:
        UsageError: an unknown metric, or too few pictures for one.
    """
    rows = {name: lookup(METRICS, name, "metric") for name in metrics}
    for name in rows:
        _check(subject, name)
    results = [result for name, row in rows.items() for result in _results(subject, name, row)]
    return {
        "results": results,
        "model": {"path": subject.model.path.resolve().name, "weights_sha256": subject.model.weights_sha256},
        "recipe": subject.model.config["config"]["recipe"],
        **_sampling(subject, results),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "undiffuse": __version__,
        "hardware": hardware(),
    }


#: What metrics need beside enough pictures on either side.
_NEEDS: dict[str, Callable[[Subject], None]] = {
    "accuracy": check_accuracy,
    "copying": check_copying,
    "modes": check_modes,
    **{name: partial(need_held_out, metric=name) for name in ("nll", "vlb", "vlb_random", "continuous_bound")},
}


def _check(subject: Subject, name: str) -> None:
    """Refuse before the first sample is drawn what could only fail after the last."""
    if name in (*OVER_FEATURES, "lpips_diversity"):
        need_pictures(subject, name)
        check_images(subject, name)
    if name in _NEEDS:
        _NEEDS[name](subject)


def _results(subject: Subject, name: str, row: Callable[[Subject], list[Result]]) -> list[dict[str, Any]]:
    made_by = {"software": software(), "hardware": hardware()}

    def make() -> list[dict[str, Any]]:
        return [stating(result.to_dict(), **made_by) for result in row(subject)]

    rows = subject.cache.results(_determining(subject, name), make)
    return [stating(result, model=_model_facts(subject)) for result in rows]  # it may have had another name then


def _model_facts(subject: Subject) -> dict[str, Any]:
    """What every result says of the model: its name, its weights and how they were averaged."""
    model = subject.model
    averaged = {"ema": averaging(model.config)} if model.weights == "ema" else {}
    facts = {"name": model.path.resolve().name, "weights_sha256": model.weights_sha256, "weights": model.weights}
    return {**facts, **averaged}


def _determining(subject: Subject, name: str) -> dict[str, Any]:
    """All that a metric's value follows from; the batch size changes no number."""
    model, asked = subject.model, asdict(subject.protocol)
    del asked["batch_size"]
    asked["options"] = subject.protocol.options.given_as_json()
    return {
        "metric": name,
        "protocol": asked,
        "features": subject.extractor.protocol() if subject.pictures else None,
        "weights_sha256": model.weights_sha256,
        "config": model.config,
        "held_out": subject.held_out.fingerprint,
        "device": model.module.device.type,
    }


def _sampling(subject: Subject, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How samples were made, where any were drawn now, or once for a result from the cache."""
    if subject.drawn:
        return {"sampling": {**subject.sampling(), "seconds": round(subject.seconds, 2)}}
    stated = [result["protocol"]["samples"] for result in results if "samples" in result["protocol"]]
    return {"sampling": stated[0]} if stated else {}
