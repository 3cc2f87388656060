"""Figures on sampling: the forward process, the samplers' trajectories from the same seeds, filmstrips, and NFE."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.sliced import sliced_wasserstein
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, Progress, sample
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import NoiseSource, SeededNoise
from undiffuse.studies.plots import plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.studies.theory.context import TheoryContext, device_of, noisy_points, plane, scaled_density
from undiffuse.wording import count_noun

#: Batch size of a network's evaluations.
_BLOCK = 1024
_PATHS, _PATH_STEPS, _COLUMNS = 8, 60, 5
#: Noise ratio at which trajectories start: with more noise only noise is visible.
_PATHS_FROM = 5.0
_MOMENTS, _SHOWN = 8, 1500
#: Fraction of the steps that the second filmstrip shows: document 004 shows steps 820 to 1000 of 1000.
_LAST_PART = 0.18
#: Steps of the comparison; an adaptive solver's steps do not depend on the grid, so it only runs on the shortest one.
STEPS = (5, 10, 20, 50)
#: Samplers that are equivalent to another one.
_TWINS = ("euler",)
#: Upper limit of the chart's distance axis, except for a sampler's best; points have a distance of about 1 from 0.
_WORST = 3.0


class CloudNoise(NoiseSource):
    """Noise for many points at once: one generator per step and draw, an order of magnitude faster than per seed.

    Increments of a Brownian path over disjoint intervals are independent and standard normal, which is sufficient for
    one run on one grid.
    """

    def __init__(self, seed: int, step: int = -1) -> None:
        self.seed, self.step, self.draws = seed, step, 0

    def at(self, index: Tensor) -> CloudNoise:
        return CloudNoise(self.seed, int(index[0]) if len(index) else 0)

    def prior(self, like: Tensor) -> Tensor:
        return self.normal(like)

    def normal(self, like: Tensor) -> Tensor:
        self.draws += 1
        bits = np.random.Philox(key=self.seed, counter=[0, self.draws, self.step + 1, 0])
        draw = np.random.Generator(bits).standard_normal(tuple(like.shape), dtype=np.float32)
        return torch.from_numpy(draw).to(device=like.device, dtype=like.dtype)

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        return self.normal(like)


class Run(NamedTuple):
    """One sampling run: the samples (B, 2), NFE, seconds, and every step's x~ and x_0-hat (K, B, 2).

    ``times`` (K + 1,) is the grid; the first entry of ``scaled`` is the start, so it has one more entry than ``x_0``.
    """

    x: Tensor
    nfe: int
    seconds: float
    times: Tensor
    scaled: list[Tensor]
    x_0: list[Tensor]


def run_sampler(
    context: TheoryContext,
    name: str,
    num_steps: int,
    num: int,
    *,
    grid: str = "log_snr",
    largest_ratio: float = math.inf,
    by_seed: bool = False,
) -> Run:
    """Sample ``num`` points and record every step.

    Args:
        largest_ratio: upper limit of the initial noise ratio.
        by_seed: draw each sample's noise from its seed, as the command line does, so that samplers share it.
    """
    denoiser, process = context.denoiser, context.process
    low, high = denoiser.log_snr_range
    times = time_grid(grid, process, num_steps, (max(low, -2 * math.log(largest_ratio)), high))
    seeds = range(context.seed, context.seed + num)
    noise: NoiseSource = SeededNoise(seeds) if by_seed else CloudNoise(context.seed)
    start = process.start_std(float(times[0])) * noise.prior(torch.empty(num, 2, device=device_of(denoiser)))
    scaled, predicted = [_scaled(context, start, float(times[0]))], []

    def record(progress: Progress) -> None:
        scaled.append(_scaled(context, progress.x, float(times[progress.index + 1])))
        predicted.append(progress.x_0.double().cpu())

    started = time.perf_counter()
    evaluated: Denoiser = denoiser if context.exact else FixedBatchDenoiser(denoiser, min(_BLOCK, max(num, 1)))
    sampler = make_sampler(name)
    done = sample(evaluated, sampler, times, shape=(2,), seeds=seeds, noise=noise, x_start=start, callback=record)
    x = done.x.double().cpu()
    return Run(x, done.nfe, time.perf_counter() - started, times, [*scaled[:-1], x], predicted)


def _scaled(context: TheoryContext, x: Tensor, t: float) -> Tensor:
    return x.double().cpu() / context.spread(torch.tensor([t], dtype=torch.float64))


def forward_strip(context: TheoryContext, folder: Path) -> StudyFigure:
    """``forward.png``: the same points at decreasing signal, over the exact density of the noisy data."""
    low, high = context.ratio_range()
    ratios = [0.0, *np.geomspace(max(low, 0.05), min(high, 5.0), _MOMENTS - 2).tolist()]
    figure, axes = plot_style.panels(1, len(ratios), size=1.9)
    for column, ratio in enumerate(ratios):
        points = noisy_points(context, ratio, _SHOWN, purpose=2)[0]
        plot_style.shade(axes[0][column], scaled_density(context, plane(64), max(ratio, low)))
        plot_style.scatter(axes[0][column], points, plot_style.INK, size=1.2, alpha=0.5)
        t = float(context.at_ratio(ratio, 1)) if ratio else 0.0
        plot_style.frame(axes[0][column], f"r = {ratio:.2g}, t = {t:.2f}", ticks=column == 0)
    plot_style.save(figure, folder / "forward.png")
    return StudyFigure(
        "forward.png",
        "The forward process",
        "The same points with an increasing amount of the same noise, over the density of noisy data; r = sigma / "
        "alpha.",
        "x_t = alpha(t) x_0 + sigma(t) eps, drawn at x_t / sqrt(alpha² + sigma²)",
        "Ho et al. 2020, arXiv:2006.11239, eq. 4; `undiffuse.core.process:Process.diffuse`",
        {"ratios": ratios},
    )


def filmstrips(context: TheoryContext, folder: Path) -> StudyFigure:
    """``filmstrip.png``: x_t and x_0-hat during sampling, over all steps and over the last steps."""
    run = run_sampler(context, context.sampler, context.num_steps, _SHOWN, grid=context.grid)
    count = len(run.x_0)
    whole = np.unique(np.linspace(0, count - 1, _MOMENTS).round().astype(int)).tolist()
    first = math.floor(count * (1 - _LAST_PART))
    last = np.unique(np.linspace(min(first, count - 1), count - 1, _MOMENTS).round().astype(int)).tolist()
    parts = [whole, last] if count >= 6 * _MOMENTS and context.grid == "uniform" else [whole]
    figure, axes = plot_style.panels(2 * len(parts), _MOMENTS, size=1.9)
    for index, moments in enumerate(parts):
        _strip(axes[2 * index : 2 * index + 2], run, moments)
    plot_style.save(figure, folder / "filmstrip.png")
    end = f" Below, the last {round(_LAST_PART * 100)}% of the steps." if len(parts) == 2 else ""
    return StudyFigure(
        "filmstrip.png",
        "The reverse process",
        f"{context.sampler}, {count_noun(count, 'step')} on the grid {context.grid!r}: the noisy points and the "
        "model's prediction at that step. x_0-hat is a mean, so early on it is inside the shape, not on it."
        f"{end}",
        "x_0-hat = E[x_0 | x_t]",
        "Ho et al. 2020, arXiv:2006.11239, sec. 4.3; `undiffuse.samplers.base:sample`",
        {"sampler": context.sampler, "steps": count, "grid": context.grid, "nfe": run.nfe},
    )


def _strip(axes: Any, run: Run, moments: Sequence[int]) -> None:
    for column in range(len(axes[0])):
        above, below = axes[0][column], axes[1][column]
        if column >= len(moments):
            above.set_visible(False)
            below.set_visible(False)
            continue
        moment = moments[column]
        plot_style.scatter(above, run.scaled[moment + 1], plot_style.BLUE, size=1.3)
        plot_style.scatter(below, run.x_0[moment], plot_style.RED, size=1.3)
        plot_style.frame(above, f"step {moment + 1} of {len(run.x_0)}", ticks=False)
        plot_style.frame(below, ticks=False)
    plot_style.row_label(axes[0][0], "x_t")
    plot_style.row_label(axes[1][0], "x_0-hat")


def trajectories(context: TheoryContext, folder: Path) -> StudyFigure:
    """``trajectories.png``: the trajectories of all samplers from the same starting points."""
    runs, failed = {}, {}
    for name in SAMPLERS:
        try:
            runs[name] = run_sampler(context, name, _PATH_STEPS, _PATHS, largest_ratio=_PATHS_FROM, by_seed=True)
        except UndiffuseError as error:
            failed[name] = str(error)
    rows = math.ceil(len(runs) / _COLUMNS)
    figure, axes = plot_style.panels(rows, _COLUMNS, size=2.6)
    density = scaled_density(context, plane(96), max(context.ratio_range()[0], 0.03))
    for position, (name, run) in enumerate(runs.items()):
        panel = axes[position // _COLUMNS][position % _COLUMNS]
        plot_style.shade(panel, density)
        _draw_paths(panel, run.scaled)
        plot_style.frame(panel, f"{name}: NFE {run.nfe}", ticks=position % _COLUMNS == 0)
        panel.title.set_fontsize(9)
    for position in range(len(runs), rows * _COLUMNS):
        axes[position // _COLUMNS][position % _COLUMNS].set_visible(False)
    plot_style.save(figure, folder / "trajectories.png")
    return StudyFigure(
        "trajectories.png",
        "Trajectories of the samplers",
        f"{_PATHS} starting points, the same for all samplers, one colour each; {_PATH_STEPS} steps even in the "
        "log-SNR; "
        "open dots are starts, filled dots are samples. Solvers of the probability-flow ODE are smooth and arrive at "
        "the same points; those of the reverse-time SDE are noisy, and with a shared noise path they end at similar "
        "points.",
        "trajectories of x~ = x_t / sqrt(alpha² + sigma²)",
        "Song et al. 2021, arXiv:2011.13456, sec. 4; `undiffuse.samplers:SAMPLERS`",
        {"evaluations": {name: run.nfe for name, run in runs.items()}, "refused": failed},
    )


def _draw_paths(axes: Any, scaled: Sequence[Tensor]) -> None:
    path = torch.stack(list(scaled)).numpy()  # (K + 1, B, 2)
    for row in range(path.shape[1]):
        colour = plot_style.CYCLE[row % len(plot_style.CYCLE)]
        axes.plot(*path[:, row].T, color=colour, lw=0.8, alpha=0.8)
        axes.scatter(*path[0, row], s=18, facecolors="white", edgecolors=colour, linewidths=1.0, zorder=3)
        axes.scatter(*path[-1, row], s=22, c=colour, edgecolors="white", linewidths=0.5, zorder=4)


def cost_and_quality(context: TheoryContext, folder: Path) -> StudyFigure:
    """``samplers.png``: sliced Wasserstein distance from the exact distribution against NFE, one line per sampler."""
    reference = context.truth.sample(5 * context.num, context.generator(4))
    floor = [
        sliced_wasserstein(context.truth.sample(context.num, context.generator(5 + i)), reference) for i in range(5)
    ]
    rows = [
        _cost_row(context, name, num_steps, reference)
        for name in SAMPLERS
        if name not in _TWINS
        for num_steps in (STEPS[:1] if make_sampler(name).adaptive else STEPS)
    ]
    figure, (axes,) = plot_style.charts(1, width=8.6, height=5.0)
    best = []
    for position, name in enumerate(SAMPLERS):
        points = [(row["nfe"], row["distance"]) for row in rows if row["sampler"] == name and row["distance"]]
        style = {"ls": "-" if position < len(plot_style.CYCLE) else "--", "marker": "os^Dv"[position % 5]}
        colour = plot_style.CYCLE[position % len(plot_style.CYCLE)]
        if points:
            best.append(min(distance for _, distance in points))
            axes.plot(*zip(*sorted(points), strict=True), color=colour, ms=4, lw=1.4, label=name, **style)
    axes.axhspan(min(floor), max(floor), color=plot_style.GREY, alpha=0.3, lw=0, label="exact draws")
    axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel="sliced Wasserstein distance")
    top = max([_WORST, *(1.5 * distance for distance in best)])
    beyond = sum(row["distance"] is not None and row["distance"] > top for row in rows)
    axes.set_ylim(top=top)
    plot_style.grid_lines(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    plot_style.save(figure, folder / "samplers.png")
    return StudyFigure(
        "samplers.png",
        "Sample quality against NFE",
        f"Distance of {count_noun(context.num, 'sample')} from {len(reference)} exact draws, {STEPS} steps even in the "
        "log-SNR (rk45 chooses its steps). The band is the distance of as many exact draws: below its top samplers "
        "cannot "
        "be distinguished. ODE solvers share their initial noise and so their sampling error."
        + (f" {beyond} of {len(rows)} results are above the upper edge." if beyond else ""),
        "mean over directions u of W_2 of the projections on u",
        "Bonneel et al. 2015; `undiffuse.metrics.sliced:sliced_wasserstein`",
        {
            "points": context.num,
            "floor": sum(floor) / len(floor),
            "floor_range": [min(floor), max(floor)],
            "rows": rows,
        },
    )


def _cost_row(context: TheoryContext, name: str, num_steps: int, reference: Tensor) -> dict[str, Any]:
    """Steps, NFE, seconds and distance of one sampler, or the error that stopped it."""
    row: dict[str, Any] = {"sampler": name, "steps": num_steps}
    try:
        run = run_sampler(context, name, num_steps, context.num)
    except UndiffuseError as error:
        return {**row, "nfe": None, "seconds": None, "distance": None, "note": str(error)}
    nonfinite = int((~torch.isfinite(run.x)).any(1).sum())
    row.update(nfe=run.nfe, seconds=run.seconds)
    if nonfinite:
        return {**row, "distance": None, "note": f"{nonfinite} of {len(run.x)} samples are not finite"}
    return {**row, "distance": sliced_wasserstein(run.x, reference)}
