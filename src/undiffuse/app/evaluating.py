"""``undiffuse evaluate``: a model against data, into a JSON file that says how each number was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.app.show import counting, results_table, say, warn
from undiffuse.app.training import split_data
from undiffuse.config import validate
from undiffuse.core.processes import PROCESSES
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.config import SourceConfig
from undiffuse.data.source import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation import Cache, Protocol, Subject, check_metrics, default_metrics, evaluate
from undiffuse.files import check_writable, write_json
from undiffuse.images import grid_of, save_png
from undiffuse.registry import make
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import check_temperature
from undiffuse.samplers.grids import time_grid
from undiffuse.systems.saved import Model
from undiffuse.training.config import RunConfig


def evaluate_to_file(
    model: Model, protocol: Protocol, metrics: Sequence[str], data: str | None, out: Path, use_cache: bool = True
) -> dict[str, Any]:
    """Evaluate, print a table, write ``out``.

    Args:
        data: held-out pictures from another source; by default those of the model's own run.
        use_cache: take results from the user's cache where they are there, and keep new ones in it.
    """
    check_metrics(metrics)
    _check_sampling(protocol)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file such as {out / 'evaluation.json'}")
    check_writable(out)
    load_train, held_out = real_data(model, data)
    with counting("evaluating") as tell:
        subject = Subject(model, load_train, held_out, protocol, tell, Cache.of_user(use_cache))
        result = evaluate(subject, metrics or _defaults(subject))
    write_json(out, result)
    results_table(result)
    _draw_closest(result, subject, out.with_name(f"{out.stem}_neighbours.png"))
    return result


def _check_sampling(protocol: Protocol) -> None:
    """Refuse an unknown name or no temperature before any work, also where no metric asks for samples."""
    if protocol.sampler is not None:
        make_sampler(protocol.sampler)
    process = make(PROCESSES, "flow" if protocol.process is None else protocol.process, "process")
    steps = 1 if protocol.steps is None else min(protocol.steps, 1)
    time_grid("uniform" if protocol.grid is None else protocol.grid, process, steps)
    check_temperature(1.0 if protocol.temperature is None else protocol.temperature)


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


def real_data(model: Model, data: str | None) -> tuple[Callable[[], Dataset], Dataset]:
    """A function that gives the training pictures, and the held-out ones, of the model's own shape.

    With ``data`` the model's own need not be there until the function is called.

    Raises:
        UsageError: no such data, of another shape, or changed since the model was trained.
    """
    if data is None:
        train, held_out = own_data(model)
        return lambda: train, held_out
    config = validate(RunConfig, model.config["config"])
    shape = tuple(model.system.shape)
    held_out = load_dataset(fitted_source(data, shape, getattr(config.data, "fit", "crop")))
    if held_out.shape != shape:
        raise UsageError(
            f"the model makes items of shape {shape}, {data} has {held_out.shape}; name data of that shape"
        )
    return partial(_training_data, model), held_out


def fitted_source(data: str, shape: tuple[int, ...], fit: str = "crop") -> SourceConfig:
    """The source that ``data`` names, its pictures brought to the channels and the size of ``shape``."""
    source = source_config_for(data)
    options = {"channels": shape[0], "size": shape[1:], "fit": fit}
    fitting = {key: value for key, value in options.items() if len(shape) == 3 and key in type(source).model_fields}
    return source.model_copy(update=fitting)


def own_data(model: Model) -> tuple[Dataset, Dataset]:
    """(training, held-out) parts of what the model was trained on."""
    train, held_out = split_data(validate(RunConfig, model.config["config"]))
    if train.fingerprint != model.config["data"]["fingerprint"]:
        raise UsageError("the data that this model was trained on has changed; put it back before comparing with it")
    return train, held_out


def _training_data(model: Model) -> Dataset:
    """The training part alone, asked for by a metric while the held-out pictures came from --data."""
    try:
        return own_data(model)[0]
    except UsageError as error:
        raise UsageError(
            f"this metric compares with the pictures that the model was trained on ({error}); put them back, or take "
            "metrics that need none: --metrics vlb,classes"
        ) from None
