"""Evaluating a model: sample, extract features, compare; each number is reported with its protocol.

A metric is one entry of ``METRICS``: a function of an ``EvaluationContext``, which holds the model, the real images of
both splits and the samples, which are drawn once and summarised for all metrics. ``Pair`` compares two sets of images
without a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from undiffuse.evaluation.accuracy import accuracy, check_accuracy
from undiffuse.evaluation.base import Protocol, Result, evenly_spaced_subset, with_protocol
from undiffuse.evaluation.cache import Cache
from undiffuse.evaluation.caption_agreement import CAPTION_AGREEMENT, caption_agreement, check_scenes, has_scenes
from undiffuse.evaluation.compare import PAIR_METRICS, compare_sets, default_pair_metrics
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.evaluators.classes import (
    check_class_agreement,
    check_class_distances,
    check_zero_shot,
    class_agreement,
    class_distances,
    zero_shot_accuracy,
)
from undiffuse.evaluation.evaluators.retrieval import (
    check_retrieval,
    check_text_retrieval,
    retrieval,
    text_retrieval,
)
from undiffuse.evaluation.image_metrics import (
    OVER_FEATURES,
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
from undiffuse.evaluation.likelihood import bound_grid, continuous, nll, vlb, vlb_random
from undiffuse.evaluation.memorisation import check_memorisation, memorisation
from undiffuse.evaluation.modes import check_modes, has_modes, modes
from undiffuse.evaluation.noisy_accuracy import NOISY_ACCURACY, check_classifier, check_kind, noisy_accuracy
from undiffuse.evaluation.pair import Pair
from undiffuse.evaluation.point_metrics import sliced
from undiffuse.evaluation.provenance import averaging, hardware, software
from undiffuse.models.base import DenoisingModel
from undiffuse.models.guides.contrastive import ContrastiveModel
from undiffuse.models.sample_sets.record import classifier_record
from undiffuse.registry import lookup
from undiffuse.version import __version__

__all__ = [
    "METRICS",
    "PAIR_METRICS",
    "Cache",
    "EvaluationContext",
    "Pair",
    "Protocol",
    "Result",
    "bound_grid",
    "check_metrics",
    "compare_sets",
    "default_metrics",
    "default_pair_metrics",
    "evaluate",
    "evenly_spaced_subset",
    "hardware",
]

METRICS: dict[str, Callable[[EvaluationContext], list[Result]]] = {
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
    "copying": memorisation,
    "sliced_wasserstein": sliced,
    "noisy_accuracy": noisy_accuracy,
    "caption_agreement": caption_agreement,
    "retrieval": retrieval,
    "zero_shot_accuracy": zero_shot_accuracy,
    "text_retrieval": text_retrieval,
    "class_agreement": class_agreement,
    "class_distances": class_distances,
}


def default_metrics(context: EvaluationContext) -> tuple[list[str], str]:
    """The metrics that apply to a model and a number of samples, and a line on the skipped ones, or ""."""
    if not context.model.module.generates:
        return _of_guides(context), ""
    if not context.generates_images:
        return ["sliced_wasserstein", *(["modes"] if has_modes(context) else [])], ""
    names, skipped = _over_features(context)
    names += ["modes"] if has_modes(context) else []
    names += [CAPTION_AGREEMENT] if has_scenes(context) else []
    if context.evaluator is not None:
        of_texts = isinstance(context.evaluator.module, ContrastiveModel) and context.model.has_text
        names += ["text_retrieval"] if of_texts else []
        names += ["class_agreement"] if len(context.model.class_names) > 1 else []
    denoises = isinstance(context.model.module, DenoisingModel)
    minimum = {"copying": 2, **({"vlb": 1} if denoises else {})}
    on_held_out = [name for name, needed in minimum.items() if len(context.held_out) >= needed]
    if len(on_held_out) < len(minimum):
        skipped.append(
            f"{len(context.held_out)} held-out images are too few for {' and '.join(minimum)}: give others with "
            "--data, or train with a data.validation_fraction above 0"
        )
    return [*names, *on_held_out], "; ".join(skipped)


def _of_guides(context: EvaluationContext) -> list[str]:
    """The metrics of a model that generates nothing."""
    if not isinstance(context.model.module, ContrastiveModel):
        return [NOISY_ACCURACY]
    with_classes = len(context.held_out.class_names) > 1
    return ["retrieval", *(["zero_shot_accuracy"] if with_classes else [])]


def _over_features(context: EvaluationContext) -> tuple[list[str], list[str]]:
    """The metrics over features with enough images, and the reason why the others are skipped."""
    if not summarises(context.num_features):
        return [], [
            f"no distances: {context.num_features} {context.extractor.name} features are too many for them; take "
            "--features efficientnet or inception"
        ]
    classifying = ["inception_score", "classes"] if classifies(context.extractor) else []
    given = min(context.protocol.num, context.num_real)
    names = ["frechet", "kernel", "precision_recall", *classifying]
    skipped = [name for name in names if given < images_needed(name, context.num_features)]
    return [name for name in names if name not in skipped], [_reason_skipped(context, skipped)] if skipped else []


def _reason_skipped(context: EvaluationContext, names: list[str]) -> str:
    needed = max(images_needed(name, context.num_features) for name in names)
    trained_on = context.model.config["data"]["train"]
    advice = (
        f"request it with --metrics {','.join(names)} --num {needed}"
        if trained_on >= needed
        else f"the model's {trained_on} training images are too few for it"
    )
    what = ", ".join("Fréchet distance" if name == "frechet" else name for name in names)
    return (
        f"no {what}: on {context.num_features} {context.extractor.name} features it needs {needed} samples, --num is "
        f"{context.protocol.num}; {advice}"
    )


def check_metrics(names: Sequence[str]) -> None:
    """Raise UsageError for an unknown metric, before any computation."""
    for name in names:
        lookup(METRICS, name, "metric")


def evaluate(context: EvaluationContext, metrics: Sequence[str]) -> dict[str, Any]:
    """All results as plain values for JSON, with the model, the sampling options and the hardware.

    Results found in the context's cache are marked as cached.

    Raises:
        UsageError: an unknown metric, or too few images for one.
    """
    rows = {name: lookup(METRICS, name, "metric") for name in metrics}
    for name in rows:
        _check(context, name)
    results = [result for name, row in rows.items() for result in _results(context, name, row)]
    return {
        "results": results,
        "model": {"path": context.model.path.resolve().name, "weights_sha256": context.model.weights_sha256},
        "recipe": context.model.config["config"]["recipe"],
        **_sampling(context, results),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "undiffuse": __version__,
        "hardware": hardware(),
    }


#: Further requirements of metrics, in addition to enough images on either side.
_CHECKS: dict[str, Callable[[EvaluationContext], object]] = {
    "accuracy": check_accuracy,
    "copying": check_memorisation,
    "modes": check_modes,
    NOISY_ACCURACY: check_classifier,
    CAPTION_AGREEMENT: check_scenes,
    "retrieval": check_retrieval,
    "zero_shot_accuracy": check_zero_shot,
    "text_retrieval": check_text_retrieval,
    "class_agreement": check_class_agreement,
    "class_distances": check_class_distances,
    **{name: partial(need_held_out, metric=name) for name in ("nll", "vlb", "vlb_random", "continuous_bound")},
}


def _check(context: EvaluationContext, name: str) -> None:
    """Raise UsageError before sampling for a metric that would fail after it."""
    check_kind(context, name)
    if name in (*OVER_FEATURES, "lpips_diversity"):
        need_images(context, name)
        check_images(context, name)
    if name in _CHECKS:
        _CHECKS[name](context)


def _results(
    context: EvaluationContext, name: str, row: Callable[[EvaluationContext], list[Result]]
) -> list[dict[str, Any]]:
    provenance = {"software": software(), "hardware": hardware()}

    def compute() -> list[dict[str, Any]]:
        return [with_protocol(result.to_dict(), **provenance) for result in row(context)]

    rows = context.cache.results(_cache_key(context, name), compute)
    return [with_protocol(result, model=_model_info(context)) for result in rows]  # its folder may have been renamed


def _model_info(context: EvaluationContext) -> dict[str, Any]:
    """The model's entry in each result: its name, its weights and how they were averaged."""
    model = context.model
    averaged = {"ema": averaging(model.config)} if model.weights == "ema" else {}
    info = {"name": model.path.resolve().name, "weights_sha256": model.weights_sha256, "weights": model.weights}
    return {**info, **averaged}


def _cache_key(context: EvaluationContext, name: str) -> dict[str, Any]:
    """Everything that determines a metric's value, which the batch size does not."""
    model, protocol = context.model, asdict(context.protocol)
    del protocol["batch_size"]
    protocol["options"] = {**context.protocol.options.given_as_json(), **classifier_record(model.classifier)}
    return {
        "metric": name,
        "protocol": protocol,
        "features": context.extractor.protocol() if context.generates_images else None,
        "weights_sha256": model.weights_sha256,
        "config": model.config,
        "held_out": context.held_out.fingerprint,
        "device": model.module.device.type,
        **({} if context.evaluator is None else {"evaluator": context.evaluator.weights_sha256}),
    }


def _sampling(context: EvaluationContext, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How samples were drawn, now or when a cached result was computed."""
    if context.drawn:
        return {"sampling": {**context.sampling(), "seconds": round(context.seconds, 2)}}
    recorded = [result["protocol"]["samples"] for result in results if "samples" in result["protocol"]]
    return {"sampling": recorded[0]} if recorded else {}
