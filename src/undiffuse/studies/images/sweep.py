"""Study ``sweep``: samplers and numbers of steps: quality against NFE and against seconds.

Every cell uses the same seeds and is compared with the same training images, so that differences between cells are due
to the sampler. A cell that fails records the reason.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from undiffuse.config import FrozenModel
from undiffuse.errors import RunError, UsageError
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.set_distance import DistanceName, SetDistance, set_distance
from undiffuse.observer import ProgressCallback
from undiffuse.samplers import make_sampler
from undiffuse.studies.images.context import ImageArray, ImageStudyContext
from undiffuse.studies.images.reference_distances import draw, extractor_of
from undiffuse.studies.option_parsing import sampler_words
from undiffuse.studies.plots import image_grid
from undiffuse.studies.plots.plot_style import CYCLE, GREY, StudyFigure, charts, grid_lines, save
from undiffuse.wording import count_noun


def _counts(value: Any) -> Any:
    """Parse ``5,10,20``, a number or a list."""
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    return [int(part) if part.strip().isdecimal() else part for part in value.split(",")]


_Steps = Annotated[int, Field(ge=1)]


class SweepOptions(FrozenModel):
    """Options of the study.

    Args:
        samplers: keys of ``SAMPLERS`` with options, separated by commas.
        steps: numbers of steps, separated by commas.
        num: samples per cell; a Fréchet distance needs more than the dimension of the features.
        reference: number of training images for comparison.
        features: a key of ``metrics.FEATURES``; ``auto`` selects by the data.
        metric: the distance between features, a key of ``SET_DISTANCES``; ``kernel`` works with few samples.
        shown: samples per cell in the second figure.
    """

    samplers: Annotated[tuple[str, ...], BeforeValidator(sampler_words), Field(min_length=1)] = (
        "heun",
        "dpmpp_2m",
        "ddim",
    )
    steps: Annotated[tuple[_Steps, ...], BeforeValidator(_counts), Field(min_length=1)] = (5, 10, 20)
    num: Annotated[int, Field(ge=2)] = 200
    reference: Annotated[int, Field(ge=2)] = 5000
    features: str = "auto"
    metric: DistanceName = "frechet"
    shown: Annotated[int, Field(ge=1, le=16)] = 8


@dataclass
class Cell:
    """One sampler at one number of steps.

    Attributes:
        nfe: number of function evaluations per sample.
        seconds: wall-clock time for ``num`` samples.
        processor_seconds: CPU time divided by the number of threads; only on a CPU.
        distance, standard_error: distance from training images, with the features and metric of the study.
        note: reason if it failed.
    """

    sampler: str
    steps: int
    nfe: int | None = None
    seconds: float | None = None
    processor_seconds: float | None = None
    distance: float | None = None
    standard_error: float | None = None
    note: str = ""

    @property
    def fair_seconds(self) -> float | None:
        """Time for the chart: on a CPU the CPU time, which does not depend on other load."""
        return self.seconds if self.processor_seconds is None else self.processor_seconds

    def record(self, metric: str) -> dict[str, Any]:
        """JSON record, with the distance under the name of its metric."""
        return {metric if name == "distance" else name: value for name, value in vars(self).items()}


def study_sweep(
    context: ImageStudyContext, options: SweepOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """Write ``sweep.png`` and ``sweep_samples.png``.

    Raises:
        UsageError: if a sampler is unknown, there are too few samples for the features, or no cell runs.
    """
    extractor = extractor_of(context, options.features)
    wanted = [Cell(sampler, steps) for sampler in options.samplers for steps in _steps_of(sampler, options.steps)]
    distance = set_distance(options.metric)
    features = extractor.features(context.real(options.reference, "training"))
    distance.check(min(options.num, len(features)), features.shape[1], "metric=kernel")
    real = distance.of(features)
    images: list[ImageArray] = []
    done: list[Cell] = []
    for number, cell in enumerate(wanted):
        count = _Count(on_progress, number * options.num, len(wanted) * options.num)
        samples = run_cell(context, cell, options.num, count)
        if samples is not None:
            found = distance.between(distance.of(extractor.features(samples)), real)
            cell.distance, cell.standard_error = found.value, found.standard_error
            images.append(samples[: options.shown].numpy())
            done.append(cell)
    if not done:
        raise UsageError(f"no cell could run; {wanted[0].sampler} with {wanted[0].steps} steps: {wanted[0].note}")
    _draw(folder / "sweep.png", wanted, distance, extractor.name)
    _grid(folder / "sweep_samples.png", done, images, distance, context.seed)
    return _study_figures(context, wanted, options, extractor, len(features))


class _Count(NamedTuple):
    """Maps the progress of one cell to the total progress."""

    on_progress: ProgressCallback
    first: int
    total: int

    def __call__(self, drawn: int) -> None:
        self.on_progress(self.first + drawn, self.total)


def _steps_of(sampler: str, steps: Sequence[int]) -> Sequence[int]:
    """One number of steps for an adaptive sampler, whose steps depend on its tolerance."""
    return steps[-1:] if make_sampler(sampler).adaptive else steps


def run_cell(context: ImageStudyContext, cell: Cell, num: int, count: Any = None) -> Tensor | None:
    """Draw the samples of a cell and set its NFE and seconds; return ``None`` and set its note if it fails.

    A warm-up sample is drawn first, so that one-time costs are not timed.
    """
    try:
        draw(context, 1, sampler=cell.sampler, steps=min(cell.steps, 2))
        started, processor = time.perf_counter(), time.process_time()
        samples, cell.nfe = draw(context, num, count, sampler=cell.sampler, steps=cell.steps)
        _wait(context)
        cell.seconds = time.perf_counter() - started
        if context.device.type == "cpu":
            cell.processor_seconds = (time.process_time() - processor) / torch.get_num_threads()
    except (UsageError, RunError) as error:
        cell.note = str(error)
        return None
    return samples


def _wait(context: ImageStudyContext) -> None:
    if context.device.type == "cuda":
        torch.cuda.synchronize()


def _draw(path: Path, cells: Sequence[Cell], distance: SetDistance, features: str) -> None:
    figure, (left, right) = charts(2)
    style: Any = {"marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 0.8}
    for number, sampler in enumerate(dict.fromkeys(cell.sampler for cell in cells)):
        rows = [cell for cell in cells if cell.sampler == sampler and cell.distance is not None]
        for axes, key in ((left, "nfe"), (right, "fair_seconds")):
            axes.errorbar(
                [getattr(cell, key) for cell in rows],
                [cell.distance for cell in rows],
                [cell.standard_error for cell in rows],
                color=CYCLE[number % len(CYCLE)],
                **style,
                label=sampler if rows else f"{sampler}: could not run",
            )
            for cell in rows:
                axes.annotate(
                    f"{cell.steps}",
                    (getattr(cell, key), cell.distance),
                    xytext=(4, 4),
                    textcoords="offset points",
                    **{"fontsize": 7, "color": GREY},
                )
    for axes, label in ((left, "NFE"), (right, "seconds for the samples of a cell")):
        axes.set(xscale="log", xlabel=label, ylabel=f"{distance.label}, {features} features")
        axes.set(**{"yscale": "log"} if distance.positive else {"ylim": (min(0, axes.get_ylim()[0]), None)})
        _plain_ticks(axes, both=distance.positive)
        grid_lines(axes)
    left.legend(fontsize=8, frameon=False)
    save(figure, path)


def _plain_ticks(axes: Any, *, both: bool) -> None:
    """Label a logarithmic axis, or both axes, with plain numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    for axis in (axes.xaxis, axes.yaxis) if both else (axes.xaxis,):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _grid(path: Path, cells: Sequence[Cell], images: Sequence[ImageArray], distance: SetDistance, seed: int) -> None:
    """One row per cell, one column per seed."""
    sampler = [cell.sampler for cell in cells]
    table = image_grid.Table(
        list(images),
        row_labels=[f"  {cell.sampler}\n{cell.steps} steps" for cell in cells],
        column_labels=[f"seed {seed + number}" for number in range(len(images[0]))],
        notes=[f"NFE {cell.nfe}\n{distance.short_label} {cell.distance:.3g}" for cell in cells],
        row_gaps=[row for row in range(1, len(cells)) if sampler[row] != sampler[row - 1]],
    )
    image_grid.write([table], path)


def _study_figures(
    context: ImageStudyContext, cells: Sequence[Cell], options: SweepOptions, extractor: FeatureExtractor, num_real: int
) -> list[StudyFigure]:
    hardware = f"{context.device.type}, {count_noun(torch.get_num_threads(), 'thread')}"
    notes = [f"{cell.sampler} with {cell.steps} steps did not run: {cell.note}" for cell in cells if cell.note]
    distance = set_distance(options.metric)
    numbers = {
        "metric": f"{distance.name}_{extractor.name}",
        "cells": [cell.record(distance.name) for cell in cells],
        "num": options.num,
        "reference_images": num_real,
        **extractor.protocol(),
        "grid": context.module.sampling_record()["grid"],
        "timed_on": hardware,
        "torch": torch.__version__,
    }
    source = f"{distance.source}; samplers.base.sample"
    bias_note = (
        "The bias from few samples is common to all distances: compare within the figure only. "
        if distance.positive
        else ""
    )
    return [
        StudyFigure(
            "sweep.png",
            "Quality against cost",
            f"{distance.label[:1].upper()}{distance.label[1:]} of {count_noun(options.num, 'sample')} per cell from "
            f"{num_real:,} training images, with standard errors, against NFE (left) and "
            "against seconds (right); the small numbers are steps. All cells use the same seeds and the model's "
            f"time grid. {bias_note}Timed on {hardware}, after a warm-up, total time; on a CPU "
            f"the CPU time per thread, which does not depend on other load. {' '.join(notes)}".rstrip(),
            distance.formula,
            source,
            numbers,
        ),
        StudyFigure(
            "sweep_samples.png",
            "The same seeds in every cell",
            "One row per cell, one column per seed. Deterministic samplers converge to the same image with enough "
            "steps; a stochastic sampler draws additional noise and gives another image.",
            "the same noise x_T in every row",
            source,
            {"seeds": list(context.seeds(options.shown))},
        ),
    ]
