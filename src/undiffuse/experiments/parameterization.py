"""``undiffuse study parameterization``: trains the cells of the table one after another, each in a separate folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.sources import configured
from undiffuse.api.training import split_data
from undiffuse.checksums import read_checked, with_checksum, without_checksum
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.config import SourceConfig
from undiffuse.data.dataset import Dataset
from undiffuse.errors import RunError, UsageError
from undiffuse.evaluation import EvaluationContext, Protocol, evaluate
from undiffuse.experiments.trainings import Parts, check_study, trained
from undiffuse.files import write_json, write_text
from undiffuse.locking import locks
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.set_distance import fitting_distance
from undiffuse.models.base import denoising
from undiffuse.models.options import SamplingOptions
from undiffuse.models.saved import Model, origin_of
from undiffuse.observer import note, stage
from undiffuse.recipes import get_recipe
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.ablations.parameterization import (
    NUM_STEPS,
    SCHEDULE,
    Cell,
    cells,
    density_bound,
    markdown,
    row_texts,
)
from undiffuse.training.config import RunConfig
from undiffuse.version import __version__
from undiffuse.wording import Table

_BOUND_IMAGES, _BOUND_POINTS, _POINT_SAMPLES = 64, 500, 1000
_IMAGES = {"images": 30_000, "points": 500_000}
#: Metric of the samples of points, and its label.
_POINT_QUALITY = ("sliced_wasserstein", "sliced Wasserstein")
#: Metric of results without one, which are of earlier versions, by the metric of today.
_EARLIER_METRIC = {"kernel": "frechet"}


@locks("out")
def parameterization(
    data: str | None,
    out: Path,
    *,
    images: int | None,
    samples: int,
    seed: int,
    device: str,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the missing models, measure every cell, write ``table.md`` and ``study.json``.

    Args:
        data: a data source; scikit-learn's digits by default.
        out: a folder; a study that was interrupted there is resumed.
        images: images seen by each training; by default about ten minutes of training on two cores.
        samples: samples per cell.
        options: ``key=value`` options of the source.
    Returns:
        The content of ``study.json``.
    Raises:
        UsageError: if a number is out of range, or the folder has other content.
    """
    check_study(out, images=images, samples=samples, seed=seed)
    source = configured(source_config_for(data or "digits"), options)
    points = not load_dataset(source).space.is_image
    images = images if images is not None else _IMAGES["points" if points else "images"]
    rows = []
    configure = partial(_configuration, source, points, images, seed)
    quality, label = _POINT_QUALITY if points else _image_quality(configure(cells()[0]), samples)
    parts = Parts("cell", len(cells()))
    for cell in cells():
        parts.begin(cell.name)
        rows.append(_cell(cell, configure(cell), out, samples, device, quality))
        write_json(out / "cells" / f"{cell.name}.json", with_checksum(rows[-1]))
    record = {
        "study": "parameterization",
        "data": source.name,
        "images": images,
        "seed": seed,
        "samples": samples,
        "num_steps": NUM_STEPS,
        "quality": label,
        "bound": "bound, nats" if points else "bound, bits/dim",
        "undiffuse": __version__,
    }
    result = {**record, "cells": rows}
    write_json(out / "study.json", with_checksum(result))
    write_text(out / "table.md", markdown(rows, record))
    return result


def summary(result: Mapping[str, Any]) -> Table:
    """The result of the study as a table, one row per cell."""
    head = ("predicts", "loss", "variance", str(result["quality"]), str(result["bound"]))
    title = f"{result['data']}, {result['images']:,} images per training"
    return Table(title, head, [row_texts(row) for row in result["cells"]])


def _image_quality(config: RunConfig, samples: int) -> tuple[str, str]:
    """The metric of the samples of images, and its label: a Fréchet distance if there are enough images."""
    training, _ = split_data(config)
    origin = origin_of(config.data.model_dump(), training.class_names)
    extractor = pick_features("auto", training.shape, origin)
    distance = fitting_distance(min(samples, len(training)), extractor.dim or math.prod(training.shape))
    return distance.name, distance.label


def _configuration(source: SourceConfig, points: bool, images: int, seed: int, cell: Cell) -> RunConfig:
    """The run of a cell: a DDPM that differs from the other cells only in the cell's settings."""
    base = get_recipe("ddpm-swissroll" if points else "ddpm-digits")
    shared = [
        f"num_images={images}",
        f"seed={seed}",
        f"system.process.num_steps={NUM_STEPS}",
        *(f"system.process.{key}={value}" for key, value in SCHEDULE.items()),
        f"system.sampling.num_steps={NUM_STEPS}",
        "system.sampling.sampler=ancestral",
        "system.sampling.grid=uniform",
        "preview_every_images=0",
        "quality_every_images=0",
        "log_every_images=5000",
    ]
    shared += [] if points else ["system.class_conditional=false", "system.network.channels=32"]
    config = apply_overrides(base, [*shared, *cell.overrides()], source)
    return config.model_copy(update={"recipe": f"study-{cell.training}"})


def _cell(cell: Cell, config: RunConfig, out: Path, samples: int, device: str, quality: str) -> dict[str, Any]:
    """Measure one cell; a failed training or sampling is a result and recorded as such."""
    path, run = out / "cells" / f"{cell.name}.json", out / "runs" / cell.training
    row: dict[str, Any] = {
        "prediction": cell.prediction,
        "loss": cell.loss,
        "variance": cell.variance,
        "training": cell.training,
        "data": config.data.model_dump(mode="json"),
        "seed": config.seed,
        "num_images": config.num_images,
        "samples": samples,
        "metric": quality,
        "quality": None,
        "bound": None,
    }
    if (done := _measured(path, row)) is not None:
        return done
    try:
        row.update(_measure(cell, trained(config, run, device), samples, quality))
    except RunError as error:
        row["failed"] = f"failed: {error}"
        note(f"{cell.name} {row['failed']}")
    return row


def _measured(path: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result of the same cell with the same settings and data, if any."""
    if not path.is_file():
        return None
    try:
        earlier = read_checked(path, "it is measured again")
    except UsageError:
        return None
    earlier = {"metric": _EARLIER_METRIC.get(row["metric"], row["metric"]), **earlier}
    same = all(earlier.get(key) == row[key] for key in ("training", "data", "seed", "num_images", "samples", "metric"))
    return without_checksum(earlier) if same and "failed" not in earlier else None


def _measure(cell: Cell, model: Model, samples: int, quality: str) -> dict[str, Any]:
    config = RunConfig.model_validate(model.config["config"])
    training, held_out = split_data(config)
    protocol = Protocol(
        num=samples,
        options=SamplingOptions.of(sampler=cell.sampler, steps=NUM_STEPS, grid="uniform"),
        bound_images=_BOUND_IMAGES,
        bound_variance=cell.variance,
    )
    points = quality == _POINT_QUALITY[0]
    names = [quality] if points else [quality, "vlb"]
    with stage("evaluating") as observer:
        results = evaluate(EvaluationContext(model, lambda: training, held_out, protocol, observer), names)["results"]
    bound = _points_bound(model, held_out, cell.variance) if points else _pair(results[1])
    return {"quality": _pair(results[0]), "bound": bound, "results": results}


def _pair(result: dict[str, Any]) -> dict[str, float | None]:
    return {"value": result["value"], "error": result["uncertainty"]}


def _points_bound(model: Model, held_out: Dataset, variance: str) -> dict[str, float | None]:
    """The bound on -log p of held-out points, in nats."""
    system = denoising(model.module, "the bound")
    x_0 = held_out.fetch(range(min(_BOUND_POINTS, len(held_out)))).x_0.to(system.device)
    if len(x_0) < 2:
        raise UsageError("the bound needs held-out points: give the source a validation_fraction")
    denoiser, noise = FixedBatchDenoiser(system.denoiser("fp32"), len(x_0)), SeededNoise(range(len(x_0)))
    nats = density_bound(denoiser, x_0, noise.numbered, variance)
    return {"value": float(nats.mean()), "error": float(nats.std()) / math.sqrt(len(nats))}
