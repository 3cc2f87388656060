"""Figures on the score: the model's field and the exact one, and the error by noise level and by location."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.studies.plots import plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.studies.theory.context import LIMIT, TheoryContext, noisy_points, plane, scaled_density, scaled_scores

_ARROWS, _PIXELS = 19, 104
_OUTLINE: dict[str, Any] = {"colors": "white", "linewidths": 0.9, "linestyles": "solid"}
#: Noise levels of the curves, and points per mean.
_LEVELS, _POINTS = 13, 2000


def score_fields(context: TheoryContext, folder: Path) -> StudyFigure:
    """``scores.png``: sigma times the score over the density, one column per noise level, the exact score above."""
    ratios = context.shown_ratios()
    rows = ["truth"] if context.exact else ["truth", "model"]
    figure, axes = plot_style.panels(len(rows), len(ratios), size=2.7)
    for column, ratio in enumerate(ratios):
        model, true = scaled_scores(context, plane(_ARROWS, LIMIT * 0.94), ratio)
        density = scaled_density(context, plane(_PIXELS), ratio)
        for row, field in enumerate([true, model][: len(rows)]):
            plot_style.shade(axes[row][column], density)
            _arrows(axes[row][column], field, plot_style.INK if row == 0 else plot_style.RED)
            plot_style.frame(axes[row][column], f"noise ratio r = {ratio:.2g}" if row == 0 else "")
    for row, name in enumerate(rows):
        plot_style.row_label(axes[row][0], name)
    plot_style.save(figure, folder / "scores.png")
    above_below = "Above: closed form, below: network. " if not context.exact else ""
    return StudyFigure(
        "scores.png",
        "Score fields",
        f"{above_below}Arrows point where the density of noisy data grows fastest; long arrows are shortened (length "
        "|v| / (1 + |v| / 2)). With much noise all arrows point to the centre, with less noise to the shape of the "
        "data.",
        "sigma ∇ log p_t(x_t) = −E[eps | x_t], drawn at x_t / sqrt(alpha² + sigma²), r = sigma / alpha",
        "Song & Ermon 2019, arXiv:1907.05600; `undiffuse.studies.theory.context:scaled_scores`",
        {"ratios": ratios},
    )


def _arrows(axes: Any, field: Tensor, colour: str) -> None:
    points = plane(_ARROWS, LIMIT * 0.94).numpy()
    length = field.norm(dim=1, keepdim=True)
    drawn = (field / (1 + length / 2)).numpy()
    options = {"angles": "xy", "scale_units": "xy", "scale": 6.5, "width": 0.0045, "headwidth": 4.2}
    axes.quiver(points[:, 0], points[:, 1], drawn[:, 0], drawn[:, 1], color=colour, **options)


def score_error(context: TheoryContext, ratio: float, count: int = _POINTS) -> dict[str, float]:
    """The score's mean squared error under p_t times sigma^2, and the denoising loss, at one noise level.

    E |eps-hat - eps|^2 = E |eps-hat - E[eps | x_t]|^2 + E |E[eps | x_t] - eps|^2: the loss of denoising score matching
    is the Fisher divergence plus a lower bound for all models (Vincent 2011).
    """
    scaled, eps = noisy_points(context, ratio, count)
    model, true = scaled_scores(context, scaled, ratio)
    error = (model - true).square().sum(1)
    return {
        "ratio": ratio,
        "fisher": float(error.mean()),
        "standard_error": float(error.std() / count**0.5),
        "relative": float(error.mean() / true.square().sum(1).mean()),
        "denoising_loss": float((model + eps).square().sum(1).mean()),
        "loss_floor": float((true + eps).square().sum(1).mean()),
    }


def low_density(context: TheoryContext, folder: Path) -> StudyFigure | None:
    """``low_density.png``: the score's error in low-density regions, with little and with much noise."""
    if context.exact:
        return None
    ratios = context.ratios(_LEVELS)
    shown = [max(context.ratio_range()[0], 0.02), 0.25, 1.0]
    figure, axes = plot_style.panels(1, 4, size=3.0, extra=1.2)
    drawn = [_error_map(axes[0][column], context, ratio) for column, ratio in enumerate(shown)]
    bar = figure.colorbar(drawn[-1], ax=list(axes[0][:3]), shrink=0.8, pad=0.01)
    bar.set_label("σ |s_θ − s|")
    numbers = [_inside_and_outside(context, ratio) for ratio in ratios]
    _curves(axes[0][3], numbers)
    plot_style.save(figure, folder / "low_density.png")
    first = numbers[-1]
    return StudyFigure(
        "low_density.png",
        "The score in low-density regions",
        "Error of the model's score over the square, on one colour scale; the line encloses 99% of the noisy "
        "data. With little noise the network was not trained outside the thin line of data and errs there; noise "
        "fills the plane, and the error vanishes. Right: the root mean squared error under the noisy data and over the "
        f"square; at r = {first['ratio']:.2g} they are {first['data']:.2g} and {first['square']:.2g}. Sampling "
        "starts outside, so it must start with much noise.",
        "σ |s_θ(x_t, t) − ∇ log p_t(x_t)| = |eps-hat − E[eps | x_t]|",
        "Song & Ermon 2019, arXiv:1907.05600, secs. 3.2, 4, fig. 2; `undiffuse.studies.theory.scores:low_density`",
        {"levels": numbers},
    )


def _error_map(axes: Any, context: TheoryContext, ratio: float) -> Any:
    from matplotlib.colors import LogNorm

    model, true = scaled_scores(context, plane(_PIXELS), ratio)
    error = (model - true).norm(dim=1)
    drawn = plot_style.image(axes, error, cmap="viridis", norm=LogNorm(0.03, 30))
    density = scaled_density(context, plane(_PIXELS), ratio)
    inside = scaled_density(context, noisy_points(context, ratio, _POINTS)[0], ratio)
    side = math.isqrt(len(density))
    along = torch.linspace(-LIMIT, LIMIT, side).numpy()
    level = float(inside.quantile(0.01))
    axes.contour(along, along, density.reshape(side, side).numpy(), levels=[level], **_OUTLINE)
    plot_style.frame(axes, f"r = {ratio:.2g}")
    return drawn


def _inside_and_outside(context: TheoryContext, ratio: float) -> dict[str, float]:
    """Root mean squared error of sigma times the score under p_t, and over the square."""
    generator = context.generator(3)
    square = (torch.rand(_POINTS, 2, dtype=torch.float64, generator=generator) * 2 - 1) * LIMIT
    points = {"data": noisy_points(context, ratio, _POINTS)[0], "square": square}
    result = {"ratio": ratio}
    for name, where in points.items():
        model, true = scaled_scores(context, where, ratio)
        result[name] = float((model - true).square().sum(1).mean().sqrt())
    return result


def _curves(axes: Any, numbers: list[dict[str, float]]) -> None:
    ratios = [row["ratio"] for row in numbers]
    axes.plot(
        ratios, [row["square"] for row in numbers], color=plot_style.RED, marker="o", ms=3.5, label="whole square"
    )
    axes.plot(
        ratios, [row["data"] for row in numbers], color=plot_style.BLUE, marker="o", ms=3.5, label="where the data is"
    )
    axes.set(xscale="log", yscale="log", xlabel="noise ratio r = σ / α", title="rms of σ |s_θ − s|")
    axes.set_box_aspect(1)
    plot_style.grid_lines(axes)
    axes.legend(fontsize=8.5, frameon=False)


def fisher_by_level(context: TheoryContext, folder: Path) -> StudyFigure | None:
    """``fisher.png``: the Fisher divergence at every noise level, and the denoising loss with its lower bound."""
    if context.exact:
        return None
    numbers = [score_error(context, ratio) for ratio in context.ratios(_LEVELS)]
    ratios = [row["ratio"] for row in numbers]
    figure, (left, right) = plot_style.charts(2)
    left.plot(ratios, [row["denoising_loss"] for row in numbers], color=plot_style.RED, marker="o", ms=4, label="model")
    left.plot(
        ratios,
        [row["loss_floor"] for row in numbers],
        color=plot_style.INK,
        ls="--",
        label="lower bound: the exact score",
    )
    left.set(xscale="log", xlabel="noise ratio r = σ / α", title="denoising loss E |eps-hat − eps|²", ylim=(0, None))
    errors = [row["standard_error"] for row in numbers]
    right.errorbar(
        ratios, [row["fisher"] for row in numbers], errors, color=plot_style.RED, marker="o", ms=4, capsize=2, lw=1.6
    )
    right.set(xscale="log", yscale="log", xlabel="noise ratio r = σ / α", title="Fisher divergence σ² E |s_θ − s|²")
    for axes in (left, right):
        plot_style.grid_lines(axes)
    left.legend(frameon=False)
    plot_style.save(figure, folder / "fisher.png")
    return StudyFigure(
        "fisher.png",
        "Fisher divergence at every noise level",
        "Left: the training loss, and its lower bound. Right: their difference, which "
        "is the Fisher divergence of the model's score from the true one, with its standard error.",
        "E|eps-hat − eps|² = σ² E|s_θ − ∇ log p_t|² + E|E[eps|x_t] − eps|²",
        "Vincent 2011, Neural Computation 23(7); `undiffuse.studies.theory.scores:score_error`",
        {"levels": numbers},
    )
