"""``undiffuse evaluate``: evaluate a model against data, with the protocol of each result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.api.arguments import check_data_named, check_texts
from undiffuse.api.datasets.reference_data import real_data
from undiffuse.api.loading import opened
from undiffuse.api.outputs import check_file
from undiffuse.api.sampling import note_identical_starts
from undiffuse.cancellation import Cancel
from undiffuse.checksums import with_checksum
from undiffuse.core.processes import PROCESSES
from undiffuse.evaluation import Cache, EvaluationContext, check_metrics, default_metrics
from undiffuse.evaluation import Protocol as Protocol
from undiffuse.evaluation import evaluate as evaluate_metrics
from undiffuse.files import write_json
from undiffuse.images import grid_of, save_png
from undiffuse.locking import locks
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, announce, note, observing, stage
from undiffuse.registry import known_keywords, make
from undiffuse.samplers import make_sampler
from undiffuse.samplers.grids import time_grid


@known_keywords
@takes_options
def evaluate(
    model: str | Path | Model,
    metrics: Sequence[str] = (),
    *,
    options: SamplingOptions,
    data: str | Path | None = None,
    out: str | Path | None = None,
    num: int = 1000,
    seed: int = 0,
    features: str = "auto",
    evaluator: str | Path | Model | None = None,
    gallery: int = 200,
    template: str = "{}",
    batch_size: int = 256,
    protocol: Protocol | None = None,
    use_cache: bool = False,
    weights: str = "ema",
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Evaluate a model; every result states its protocol.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``.
        metrics: rows of ``evaluation.METRICS``; by default those that apply to the model and its data.
        options: sampling options, see ``models.options``.
        data: other held-out images, or the current location of the run's own data.
        out: a JSON file to write.
        num: number of samples to draw.
        seed: of the first of them.
        features: a row of ``metrics.FEATURES``, or ``auto``.
        evaluator: a contrastive model or a classifier that evaluates the samples, for ``text_retrieval`` and
            ``class_agreement``: a run folder, a model folder, or a ``Model``.
        gallery: largest number of captions in a retrieval.
        template: text of a class, with ``{}`` for its name, for evaluators of texts.
        batch_size: images per batch; does not change any result.
        protocol: replaces ``num``, ``seed``, ``features``, ``gallery``, ``template``, ``batch_size`` and the options.
        use_cache: read results from the user's cache and store new ones.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Returns:
        ``results``, each with its value, uncertainty and protocol, and a record of the model and the data.
    Raises:
        UsageError: no such model or metric, or data that does not fit the model.
        CancelledError: it was cancelled.
    """
    check_texts("metrics", metrics)
    where = Path(out).expanduser() if out is not None else None
    requested = protocol or Protocol(num=num, seed=seed, options=options, batch_size=batch_size, features=features)
    if protocol is None:
        requested = replace(requested, gallery=gallery, template=template)
    with observing(observer, cancel):
        loaded = opened(model, device, weights)
        by = None if evaluator is None else opened(evaluator, device, "ema")
        place = str(data) if data is not None else None
        return evaluate_to_file(loaded, requested, metrics, place, where, use_cache, evaluator=by)


@locks("out")
def evaluate_to_file(
    model: Model,
    protocol: Protocol,
    metrics: Sequence[str],
    data: str | None,
    out: Path | None,
    use_cache: bool = True,
    options: Sequence[str] = (),
    evaluator: Model | None = None,
) -> dict[str, Any]:
    """Evaluate a model and write the results to ``out`` if given.

    Args:
        model: to evaluate.
        protocol: of the evaluation.
        metrics: rows of ``evaluation.METRICS``; if empty, those that apply.
        data: other held-out images, or the current location of the model's own; by default those of its run.
        out: a JSON file, or None.
        use_cache: read results from the user's cache and store new ones.
        options: ``key=value`` texts for the source in ``data``.
        evaluator: the model that evaluates samples.
    """
    check_data_named(data, options)
    check_metrics(metrics)
    model = model.guided(protocol.options)
    _check_sampling(protocol)
    note_identical_starts(model, protocol.options, protocol.num)
    check_file(out, "evaluation.json")
    load_train, held_out = real_data(model, data, options)
    with stage("evaluating") as observer:
        cache = Cache.of_user(use_cache)
        subject = EvaluationContext(model, load_train, held_out, protocol, observer, cache, evaluator)
        result = evaluate_metrics(subject, metrics or _defaults(subject))
    if out is not None:
        write_json(out, with_checksum(result))
        _draw_closest(result, subject, out.with_name(f"{out.stem}_neighbours.png"))
    return result


def _check_sampling(protocol: Protocol) -> None:
    """Check names before any work, even if no metric needs samples."""
    requested = protocol.options.over(SamplingOptions.of(process="flow", grid="uniform"))
    make_sampler(requested.sampler)
    time_grid(requested.grid, make(PROCESSES, str(requested.process), "process"), 1)


def _defaults(subject: EvaluationContext) -> list[str]:
    metrics, left_out = default_metrics(subject)
    if left_out:
        note(left_out)
    return metrics


def _draw_closest(result: Mapping[str, Any], subject: EvaluationContext, path: Path) -> None:
    """Draw the samples that are closest to a training image, each above that image."""
    for row in result["results"]:
        if closest := row["details"].get("closest"):
            samples = subject.regenerate([pair["seed"] - subject.protocol.seed for pair in closest]).numpy()
            training = subject.train.fetch([pair["training_item"] for pair in closest]).items.numpy()
            save_png(path, grid_of(np.concatenate([samples, training]), columns=len(closest)))
            announce(f"samples above their nearest training images: {path}")
