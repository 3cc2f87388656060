"""``undiffuse evaluate``: a model against data, into a JSON file that says how each number was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.api.arguments import check_data_named, check_texts
from undiffuse.api.datasets.reference_data import real_data
from undiffuse.api.loading import opened
from undiffuse.api.outputs import check_file
from undiffuse.api.sampling import note_identical_starts
from undiffuse.cancellation import Cancel
from undiffuse.claims import writes_to
from undiffuse.core.processes import PROCESSES
from undiffuse.evaluation import Cache, EvaluationContext, check_metrics, default_metrics
from undiffuse.evaluation import Protocol as Protocol
from undiffuse.evaluation import evaluate as evaluate_metrics
from undiffuse.files import write_json
from undiffuse.images import grid_of, save_png
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, announce, note, observing, stage
from undiffuse.registry import known_keywords, make
from undiffuse.samplers import make_sampler
from undiffuse.samplers.grids import time_grid
from undiffuse.sealed import sealed


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
    batch_size: int = 256,
    protocol: Protocol | None = None,
    use_cache: bool = False,
    weights: str = "ema",
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Measure a model; every number comes with the protocol that made it.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``.
        metrics: rows of ``evaluation.METRICS``; by default those that the model and its data allow.
        options: each a keyword of its own, see ``models.options``.
        data: other held-out images than the run's own, or where the run's own lie now.
        out: a JSON file to write as well.
        num: samples to draw.
        seed: of the first of them.
        features: a row of ``metrics.FEATURES``, or ``auto``.
        batch_size: images at a time; changes no number.
        protocol: all of it in one, instead of ``num``, ``seed``, ``features``, ``batch_size`` and the options.
        use_cache: take results from the user's cache, and keep new ones in it.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: hears of progress.
        cancel: asks the work to stop, from any thread.
    Returns:
        ``results``, each with its value, uncertainty and protocol, and what was measured.
    Raises:
        UsageError: no such model or metric, or data that does not fit the model.
        CancelledError: it was cancelled.
    """
    check_texts("metrics", metrics)
    where = Path(out).expanduser() if out is not None else None
    requested = protocol or Protocol(num=num, seed=seed, options=options, batch_size=batch_size, features=features)
    with observing(observer, cancel):
        loaded = opened(model, device, weights)
        return evaluate_to_file(loaded, requested, metrics, str(data) if data is not None else None, where, use_cache)


@writes_to("out")
def evaluate_to_file(
    model: Model,
    protocol: Protocol,
    metrics: Sequence[str],
    data: str | None,
    out: Path | None,
    use_cache: bool = True,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate, and write ``out`` where one is named.

    Args:
        model: to be measured.
        protocol: how.
        metrics: rows of ``evaluation.METRICS``; those that fit, if none is named.
        data: held-out images from another source, or where the model's own lie now; by default those of its run.
        out: a JSON file, or None.
        use_cache: take results from the user's cache where they are there, and keep new ones in it.
        options: ``key=value`` of the source that ``data`` names.
    """
    check_data_named(data, options)
    check_metrics(metrics)
    _check_sampling(protocol)
    note_identical_starts(model, protocol.options, protocol.num)
    check_file(out, "evaluation.json")
    load_train, held_out = real_data(model, data, options)
    with stage("evaluating") as observer:
        subject = EvaluationContext(model, load_train, held_out, protocol, observer, Cache.of_user(use_cache))
        result = evaluate_metrics(subject, metrics or _defaults(subject))
    if out is not None:
        write_json(out, sealed(result))
        _draw_closest(result, subject, out.with_name(f"{out.stem}_neighbours.png"))
    return result


def _check_sampling(protocol: Protocol) -> None:
    """Refuse an unknown name before any work, also where no metric asks for samples."""
    requested = protocol.options.over(SamplingOptions.of(process="flow", grid="uniform"))
    make_sampler(requested.sampler)
    time_grid(requested.grid, make(PROCESSES, str(requested.process), "process"), 1)


def _defaults(subject: EvaluationContext) -> list[str]:
    metrics, left_out = default_metrics(subject)
    if left_out:
        note(left_out)
    return metrics


def _draw_closest(result: Mapping[str, Any], subject: EvaluationContext, path: Path) -> None:
    """The samples nearest to a training image, each above that image."""
    for row in result["results"]:
        if closest := row["details"].get("closest"):
            samples = subject.regenerate([pair["seed"] - subject.protocol.seed for pair in closest]).numpy()
            training = subject.train.fetch([pair["training_item"] for pair in closest]).items.numpy()
            save_png(path, grid_of(np.concatenate([samples, training]), columns=len(closest)))
            announce(f"samples above their nearest training images: {path}")
