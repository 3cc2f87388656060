"""The forward process on real images: T composed single steps q(x_t | x_s) and the closed form q(x_t | x_0).

A step from s to t is

    x_t = alpha_ts x_s + sqrt(sigma_t^2 - alpha_ts^2 sigma_s^2) eps,   alpha_ts = alpha_t / alpha_s,

and composed they are x_t = alpha_t x_0 + sigma_t eps. Given the images, the mean and the variance over n values of
x_t differ from alpha m and alpha^2 v + sigma^2 by sampling errors of standard deviation

    sigma / sqrt(n)   and   sqrt((4 alpha^2 sigma^2 v + 2 sigma^4) / n),

where m and v are mean and variance of the pixel values of the images.

Source: Ho et al. 2020, arXiv:2006.11239, eqs. 2 and 4; Song et al. 2021, arXiv:2011.13456, sec. 3 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.config import FrozenModel
from undiffuse.core.process import Process
from undiffuse.core.random import derived_seed
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.observer import ProgressCallback
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.images.times import matched_times, time_label, visible
from undiffuse.studies.plots import image_grid, plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.wording import count_noun

#: Draws standard normal noise of the shape of its argument.
Draw = Callable[[Tensor], Tensor]

#: Default steps of a continuous process.
_STEPS = 1000
#: Number of times at which mean and variance are computed; columns of the filmstrip.
_MOMENTS, _COLUMNS = 101, 11


class ForwardOptions(FrozenModel):
    """Options of the study ``forward``.

    Args:
        steps: single steps of a continuous process, even in t; a discrete chain has a fixed number.
        num: real images over which mean and variance are computed.
        rows: images shown.
    """

    steps: Annotated[int, Field(ge=2, le=100_000)] | None = None
    num: Annotated[int, Field(ge=2)] = 256
    rows: Annotated[int, Field(ge=1, le=16)] = 3


class Moments(NamedTuple):
    """Mean and variance over all values at each of K times, ``(K,)`` float64 each."""

    mean: Tensor
    variance: Tensor


def chain_times(process: Process, steps: int | None = None) -> Tensor:
    """The knots of a discrete chain, or ``steps`` equal steps (1000 by default) from 0 to 1, ascending float64.

    Raises:
        UsageError: if ``steps`` differs from the number of steps of a discrete chain.
    """
    if process.knots is None:
        return torch.linspace(0, 1, (steps or _STEPS) + 1, dtype=torch.float64)
    if steps is not None and steps != process.num_steps:
        raise UsageError(f"this model's chain has {process.num_steps} steps of its own, got steps={steps}; omit it")
    return process.knots


def compose(process: Process, times: Tensor, x_0: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield x at each of ``times``, with a single step q(x_t | x_s) from one to the next.

    Args:
        times: (K + 1,) ascending; the first x is drawn from the closed form if sigma > 0 there.
        x_0: (..., D) clean data.
        draw: returns the noise of a step, in a shape that broadcasts to that of x_0.
    """
    first = times[:1]
    x = float(process.alpha(first)) * x_0
    if (sigma := float(process.sigma(first))) > 0:
        x = x + sigma * draw(x)
    yield x
    bridge = process.bridge(times[:-1], times[1:])
    for alpha_ts, std in zip(bridge.alpha_ts.tolist(), bridge.var_max.sqrt().tolist(), strict=True):
        x = alpha_ts * x + std * draw(x)
        yield x


def composed_coefficients(process: Process, times: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma^2) of x at ``times`` computed from the composed single steps, ``(K + 1,)`` float64 each."""
    bridge = process.bridge(times[:-1], times[1:])
    alpha, variance = [process.alpha(times[:1])[0]], [process.sigma(times[:1])[0] ** 2]
    for alpha_ts, var in zip(bridge.alpha_ts, bridge.var_max, strict=True):
        alpha.append(alpha_ts * alpha[-1])
        variance.append(alpha_ts**2 * variance[-1] + var)
    return torch.stack(alpha), torch.stack(variance)


def expected(process: Process, times: Tensor, mean: float, variance: float) -> Moments:
    """Mean and variance of x_t over data with this mean and variance: alpha m and alpha^2 v + sigma^2."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    return Moments(alpha * mean, alpha**2 * variance + sigma**2)


def sampling_error(process: Process, times: Tensor, variance: float, count: int) -> Moments:
    """Standard deviations of the measured mean and variance over ``count`` values of fixed data, see the module."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    of_variance = ((4 * alpha**2 * sigma**2 * variance + 2 * sigma**4) / count).sqrt()
    return Moments(sigma / count**0.5, of_variance)


class Measured(NamedTuple):
    """Mean and deviation of the images, and statistics of x_t at the measured times.

    ``raw`` is the mean of x_t in model values; ``unit`` is the mean and variance of x_t for images normalised to mean 0
    and variance 1. Each is a pair: single steps, closed form. ``films`` (2, columns, rows, C, H, W) are the images
    shown, in model values.
    """

    mean: float
    std: float
    raw: tuple[Tensor, Tensor]
    unit: tuple[Moments, Moments]
    films: Tensor


def measure(
    process: Process,
    times: Tensor,
    at: list[int],
    shown: list[int],
    x_0: Tensor,
    rows: int,
    draw: Draw,
    on_progress: ProgressCallback,
) -> Measured:
    """Compose all steps; compute the moments at the knots ``at`` and record images at the knots ``shown``."""
    mean, std = float(x_0.mean()), float(x_0.std(correction=0)) or 1.0
    both = torch.stack([x_0, (x_0 - mean) / std])
    moments: tuple[list[Any], list[Any]] = ([], [])
    films: tuple[list[Tensor], list[Tensor]] = ([], [])
    for knot, x in enumerate(compose(process, times, both, lambda like: draw(like[0]))):
        if knot in at or knot in shown:
            closed = _closed_form(process, both, times[knot], draw)
            for way, value in enumerate((x, closed)):
                if knot in at:
                    moments[way].append(_moments(value))
                if knot in shown:
                    films[way].append(value[0, :rows].clone())
        on_progress(knot, len(times) - 1)
    single, direct = (torch.tensor(values, dtype=torch.float64).T for values in moments)
    return Measured(
        mean,
        std,
        (single[0], direct[0]),
        (Moments(single[1], single[2]), Moments(direct[1], direct[2])),
        torch.stack([torch.stack(film) for film in films]),
    )


def _closed_form(process: Process, x_0: Tensor, t: Tensor, draw: Draw) -> Tensor:
    rows = t.expand(len(x_0))
    return per_row(process.alpha(rows), x_0) * x_0 + per_row(process.sigma(rows), x_0) * draw(x_0[0])


def _moments(both: Tensor) -> tuple[float, float, float]:
    raw, unit = both.double()
    return float(raw.mean()), float(unit.mean()), float(unit.var(correction=0))


def study_forward(
    context: ImageStudyContext, options: ForwardOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """``forward.png``: both filmstrips of the same images, and mean and variance of both over time."""
    process, times = context.process, chain_times(context.process, options.steps)
    count = len(times) - 1
    at = sorted({round(knot) for knot in np.linspace(0, count, _MOMENTS).tolist()})
    wanted = matched_times(context, np.linspace(0, 1, _COLUMNS).tolist())
    shown = sorted({round(t * count) for t in wanted})
    generator = torch.Generator().manual_seed(derived_seed(context.seed, "study forward"))
    x_0 = context.to_x(context.real(options.num)).cpu()
    done = measure(
        process,
        times,
        at,
        shown,
        x_0,
        options.rows,
        lambda like: torch.randn(like.shape, generator=generator),
        on_progress,
    )
    error = sampling_error(process, times[at], 1.0, x_0.numel())
    curve = expected(process, times[at], 0.0, 1.0)
    figure, axes = image_grid.draw([_filmstrip(process, times[shown], done.films)], num_charts=3, chart_height=430)
    _charts(axes, process, times[at], done, error, curve)
    plot_style.save(figure, folder / "forward.png")
    return [_study_figure(process, times, len(x_0), done, error, curve)]


def _filmstrip(process: Process, times: Tensor, films: Tensor) -> image_grid.Table:
    columns = [
        np.stack([visible(process, films[way, column], t) for column, t in enumerate(times.tolist())], axis=1)
        for way in range(2)
    ]
    rows = [columns[way][row] for row in range(films.shape[2]) for way in range(2)]
    return image_grid.Table(
        rows,
        ["single steps", "closed form"] * films.shape[2],
        [time_label(process, t) for t in times.tolist()],
        "x_t from the same images: all single steps composed, and drawn directly  (λ: log-SNR)",
        row_gaps=range(2, len(rows), 2),
    )


def _charts(axes: Any, process: Process, times: Tensor, done: Measured, error: Moments, curve: Moments) -> None:
    mean, variance, deviations = axes
    t = times.numpy()
    styles = ({"color": plot_style.BLUE, "marker": "o", "ms": 3.5}, {"color": plot_style.RED, "marker": "x", "ms": 4.5})
    names = ("single steps", "closed form, drawn")
    for way, style in enumerate(styles):
        part = slice(2 * way, None, 5)  # alternating points, so that neither hides the other
        mean.plot(t[part], done.raw[way].numpy()[part], lw=0, label=names[way], **style)
        variance.plot(t[part], done.unit[way].variance.numpy()[part], lw=0, label=names[way], **style)
    mean.plot(
        t, (process.alpha(times) * done.mean).numpy(), color=plot_style.INK, lw=1, zorder=0, label="α(t) · mean of x_0"
    )
    variance.plot(t, curve.variance.numpy(), color=plot_style.INK, lw=1, zorder=0, label="α² + σ²")
    mean.set(title="mean of x_t, original images", xlabel="t")
    variance.set(title="variance of x_t, images of unit variance", xlabel="t")
    low, high = float(curve.variance.min()), float(curve.variance.max())
    if high > 20:
        variance.set_yscale("log")
    else:
        variance.set_ylim(min(0.8, low - 0.2), max(1.2, high + 0.2))
    deviations.axhspan(-2, 2, color=plot_style.GREY, alpha=0.2, lw=0)
    for way, style in enumerate(styles):
        z = _deviations(done.unit[way].variance, curve.variance, error.variance)
        deviations.plot(t, z.numpy(), lw=1.2, color=style["color"], label=names[way])
    low, high = deviations.get_ylim()
    deviations.set_ylim(low, high + 0.25 * (high - low))  # space for the legend
    deviations.set(title="variance: deviation / its sampling error", xlabel="t")
    for chart in axes:
        plot_style.grid_lines(chart)
        chart.title.set_fontsize(9.5)
        chart.legend(fontsize=8, frameon=False, loc="upper right" if chart is deviations else "best")


def _deviations(measured: Tensor, truth: Tensor, error: Tensor) -> Tensor:
    """Deviations in units of the sampling error; 0 if there is no noise and so no error."""
    return torch.where(error > 0, (measured - truth) / error.clamp(min=1e-300), torch.zeros_like(error))


def _study_figure(
    process: Process, times: Tensor, num: int, done: Measured, error: Moments, curve: Moments
) -> StudyFigure:
    alpha, var = composed_coefficients(process, times)
    ways = {}
    for name, unit in zip(("single_steps", "closed_form"), done.unit, strict=True):
        deviation = (unit.variance - curve.variance).abs()
        ways[name] = {
            "largest_variance_deviation": float((deviation / curve.variance).max()),
            "largest_variance_deviation_in_sampling_errors": float(
                _deviations(unit.variance, curve.variance, error.variance).abs().max()
            ),
            "largest_mean_deviation_in_sampling_errors": float(
                _deviations(unit.mean, curve.mean, error.mean).abs().max()
            ),
        }
    sentence, trend = _describe_variance(process, curve.variance)
    return StudyFigure(
        "forward.png",
        "The forward process: single steps and closed form",
        f"Above: the same images after {len(times) - 1} single steps and drawn directly from the closed form, at "
        "times with the noise of DDPM's chain after every tenth of its steps; black to white is "
        "-(α + 2σ) to α + 2σ, so that noise is visible. The two rows are different draws of one distribution. Below: "
        f"mean and variance over all values of {count_noun(num)} at {len(error.mean)} times. {sentence} Right: the "
        "grey band "
        "is ± two sampling errors, which should contain 95% of the deviations; neighbouring times of the "
        "chain share their noise, those of the closed form do not.",
        "x_t = α_ts x_s + sqrt(σ_t² - α_ts² σ_s²) ε, composed; x_t = α_t x_0 + σ_t ε",
        "Ho et al. 2020, arXiv:2006.11239, eqs. 2 and 4; `undiffuse.studies.images.forward:compose`",
        {
            "steps": len(times) - 1,
            "pictures": num,  # data
            "pixel_mean": done.mean,
            "pixel_std": done.std,
            **ways,
            "variance": trend,
            "variance_range": [float(curve.variance.min()), float(curve.variance.max())],
            "composed_alpha_largest_error": float((alpha - process.alpha(times)).abs().max()),
            "composed_variance_largest_relative_error": float(
                ((var - process.sigma(times) ** 2).abs() / process.sigma(times).clamp(min=1e-12) ** 2)[1:].max()
            ),
        },
    )


def _describe_variance(process: Process, variance: Tensor) -> tuple[str, str]:
    low, high = float(variance.min()), float(variance.max())
    begin = "The images are first normalised to mean 0 and variance 1; "
    if high - low < 1e-6:
        return begin + "this process keeps that variance at 1 at every t.", "kept at 1"
    if high > 1.01:
        end = float(process.sigma(torch.ones(1, dtype=torch.float64)))
        return (
            begin + f"here the signal is not scaled down and the variance grows to 1 + σ(1)², σ(1) = {end:.3g}.",
            "grows",
        )
    return begin + f"here the variance falls to {low:.2g} in between: alpha² + sigma² is below 1.", "dips"
