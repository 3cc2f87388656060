"""``undiffuse evaluate``: a model against data, into a JSON file that says how each number was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.app.early_data import check_said_of
from undiffuse.app.early_out import check_file
from undiffuse.app.real import real_data
from undiffuse.app.sampling import tell_of_one_start
from undiffuse.app.show import counting, results_table, say, warn
from undiffuse.claims import writes_to
from undiffuse.core.processes import PROCESSES
from undiffuse.evaluation import Cache, Protocol, Subject, check_metrics, default_metrics, evaluate
from undiffuse.files import write_json
from undiffuse.images import grid_of, save_png
from undiffuse.models.options import SamplingOptions
from undiffuse.models.saved import Model
from undiffuse.registry import make
from undiffuse.samplers import make_sampler
from undiffuse.samplers.grids import time_grid
from undiffuse.sealed import sealed


@writes_to("out")
def evaluate_to_file(
    model: Model,
    protocol: Protocol,
    metrics: Sequence[str],
    data: str | None,
    out: Path,
    use_cache: bool = True,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate, print a table, write ``out``.

    Args:
        data: held-out pictures from another source, or where the model's own lie now; by default those of its run.
        use_cache: take results from the user's cache where they are there, and keep new ones in it.
        options: ``key=value`` of the source that ``data`` names.
    """
    check_said_of(data, options)
    check_metrics(metrics)
    _check_sampling(protocol)
    tell_of_one_start(model, protocol.options, protocol.num)
    check_file(out, "evaluation.json")
    load_train, held_out = real_data(model, data, options)
    with counting("evaluating") as observer:
        subject = Subject(model, load_train, held_out, protocol, observer, Cache.of_user(use_cache))
        result = evaluate(subject, metrics or _defaults(subject))
    write_json(out, sealed(result))
    results_table(result)
    _draw_closest(result, subject, out.with_name(f"{out.stem}_neighbours.png"))
    return result


def _check_sampling(protocol: Protocol) -> None:
    """Refuse an unknown name before any work, also where no metric asks for samples."""
    asked = protocol.options.over(SamplingOptions.of(process="flow", grid="uniform"))
    make_sampler(asked.sampler)
    time_grid(asked.grid, make(PROCESSES, str(asked.process), "process"), 1)


def _defaults(subject: Subject) -> list[str]:
    metrics, note = default_metrics(subject)
    if note:
        warn(note)
    return metrics


def _draw_closest(result: Mapping[str, Any], subject: Subject, path: Path) -> None:
    """The samples nearest to a training picture, each above that picture."""
    for row in result["results"]:
        if closest := row["details"].get("closest"):
            samples = subject.again([pair["seed"] - subject.protocol.seed for pair in closest]).numpy()
            training = subject.train.fetch([pair["training_item"] for pair in closest]).items.numpy()
            save_png(path, grid_of(np.concatenate([samples, training]), columns=len(closest)))
            say(f"samples above their nearest training pictures: {path}")
