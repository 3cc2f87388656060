"""The denoising trajectory: x_t and x_0-hat during sampling, and when each scale of the image is determined.

x_0-hat is the model's estimate of the final sample at time t. Its distance from the sample is split by scale: with P_b
the part of an image in a band b of spatial frequencies (cycles across the image),

    e_b(t) = mean over samples of |P_b (x_0-hat(x_t) - x_0)|^2, over the variance of |P_b x_0| among the samples,

which is 1 if only the mean of the band is known, more if the network errs, and 0 at the end.

Source: Ho et al. 2020, arXiv:2006.11239, sec. 4.3 and fig. 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.models.classes import Classes
from undiffuse.observer import ProgressCallback
from undiffuse.samplers.base import Progress
from undiffuse.studies.images.context import ClassOptions, ImageStudyContext, Plan, sampling_plan
from undiffuse.studies.images.times import time_label, visible
from undiffuse.studies.plots import image_grid, plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.wording import count_noun

#: Columns of the filmstrips, without the final image.
_COLUMNS = 11
#: Default number of steps, unless the model's is larger: enough to see when features appear.
_STEPS = 50
#: Maximum frequency, in cycles per image, of large features.
_LARGE = 2.0


class DenoisingTrajectoryOptions(ClassOptions):
    """Options of the study ``denoising-trajectory``.

    Args:
        num: samples over which the distances are computed.
        rows: samples shown.
        sampler: the model's by default.
        steps: of the grid; at least 50 by default.
        class_name: of all samples; by default cycling through all classes.
        no_class: sample without a class.
    """

    num: Annotated[int, Field(ge=2)] = 16
    rows: Annotated[int, Field(ge=1, le=16)] = 3
    sampler: str | None = None
    steps: Annotated[int, Field(ge=2)] | None = None


class Film(NamedTuple):
    """``times`` (K + 1,); x_t at the first K of them and x_0-hat there, (K, N, C, H, W); the samples (N, C, H, W)."""

    times: Tensor
    x: Tensor
    x_0: Tensor
    final: Tensor


def film(context: ImageStudyContext, plan: Plan, num: int, class_name: Classes, on_progress: ProgressCallback) -> Film:
    """Draw samples and record every step."""
    times = context.times(plan.steps)
    noise = context.noise(num)
    start = context.process.start_std(float(times[0])) * noise.prior(torch.empty(num, *context.shape))
    x, x_0 = [start], []

    def record(progress: Progress) -> None:
        x.append(progress.x.cpu())
        x_0.append(progress.x_0.cpu())
        on_progress(progress.index + 1, progress.count)

    final = context.denoise_from(
        start.to(context.device),
        times,
        sampler=plan.sampler,
        noise=noise,
        cond=context.condition(num, class_name),
        callback=record,
    )
    return Film(times, torch.stack(x[:-1]), torch.stack(x_0), final.cpu())


def band_energies(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Energy of images (..., C, H, W) in three bands of spatial frequency, ``(3,)``, summed over all of them.

    Args:
        limits: boundaries of the bands, in cycles per image.
    """
    height, width = images.shape[-2:]
    across = torch.fft.fftfreq(width, 1 / width).expand(height, width)
    down = torch.fft.fftfreq(height, 1 / height)[:, None].expand(height, width)
    radius = torch.hypot(across, down)
    power = torch.fft.fft2(images.double()).abs().square().reshape(-1, height, width).sum(0) / (height * width)
    low, high = limits
    bands = (radius <= low, (radius > low) & (radius <= high), radius > high)
    return torch.stack([power[band].sum() for band in bands])


def missing(done: Film, limits: tuple[float, float]) -> Tensor:
    """e_b at each step, ``(K, 3)``: the error's energy in three bands over that of the samples about their mean."""
    energies = torch.stack([band_energies(x_0 - done.final, limits) for x_0 in done.x_0])
    num = len(done.final)
    sample_energies = band_energies(done.final - done.final.mean(0), limits) * num / (num - 1)
    return energies / sample_energies.clamp(min=1e-300)


def determined_from(share: Tensor, level: float = 0.5) -> int:
    """The first index from which on ``share`` (K,) stays at or below ``level``; K if it never does."""
    above = torch.nonzero(share > level).flatten()
    return 0 if len(above) == 0 else int(above[-1]) + 1


def study_denoising_trajectory(
    context: ImageStudyContext, options: DenoisingTrajectoryOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """``denoising_trajectory.png``: filmstrips of x_t and x_0-hat, and the distance of x_0-hat from the sample."""
    default = sampling_plan(context, options.sampler, options.steps)
    plan = default if options.steps is not None else default._replace(steps=max(default.steps, _STEPS))
    done = film(context, plan, options.num, options.requested, on_progress)
    limits = _LARGE, max(2 * _LARGE, max(context.shape[1:]) / 4)
    share = missing(done, limits)
    figure, axes = image_grid.draw(_strips(context, done, options.rows), num_charts=2, chart_height=430, chart_gap=210)
    distance = (done.x_0 - done.final).double().flatten(2).square().mean(2).sqrt()  # (K, N)
    log_snr = context.process.log_snr(done.times[:-1])
    _charts(axes, distance, log_snr, share, limits)
    plot_style.save(figure, folder / "denoising_trajectory.png")
    return [_study_figure(context, plan, done, distance, log_snr, share, limits)]


def _strips(context: ImageStudyContext, done: Film, rows: int) -> list[image_grid.Table]:
    count, process = len(done.x_0), context.process
    columns = np.unique(np.linspace(0, count - 1, _COLUMNS).round().astype(int)).tolist()
    times = done.times.tolist()
    final = context.finish(done.final)
    x_t = [visible(process, done.x[k], times[k]) for k in columns]
    x_0 = [context.finish(done.x_0[k]) for k in columns]
    images = []
    for row in range(min(rows, len(final))):
        images += [np.stack([*(film[row] for film in strip), final[row]]) for strip in (x_t, x_0)]
    labels = [*(time_label(process, times[k]) for k in columns), "sample"]
    table = image_grid.Table(
        images,
        ["x_t", "x_0-hat"] * (len(images) // 2),
        labels,
        "x_t, and the estimate x_0-hat at that step  (λ: log-SNR)",
        gaps=[len(columns)],
        row_gaps=range(2, len(images), 2),
    )
    return [table]


def _charts(axes: Any, distance: Tensor, log_snr: Tensor, share: Tensor, limits: tuple[float, float]) -> None:
    left, right = axes
    steps = np.arange(1, len(distance) + 1)
    left.plot(steps, distance.numpy(), color=plot_style.BLUE, lw=0.6, alpha=0.35)
    left.plot(steps, distance.mean(1).numpy(), color=plot_style.BLUE, lw=2.2, label="mean")
    left.set(title="distance of x_0-hat from the sample", xlabel="step", ylabel="RMS, pixels in [-1, 1]", ylim=0)
    twin = left.twinx()
    finite = torch.where(log_snr.isfinite(), log_snr, torch.nan).numpy()
    twin.plot(steps, finite, color=plot_style.GREY, lw=1.2, ls="--")
    twin.set_ylabel("log-SNR (dashed)", color=plot_style.GREY, fontsize=9.5)
    twin.tick_params(labelsize=8.5, colors="#555555")
    for spine in twin.spines.values():
        spine.set_visible(False)
    for band, colour in enumerate((plot_style.BLUE, plot_style.ORANGE, plot_style.RED)):
        right.plot(finite, share[:, band].numpy(), color=colour, label=_bands(limits)[band])
    right.axhline(0.5, color=plot_style.GREY, lw=0.8, ls=":")
    right.set(title="remaining error, by scale", xlabel="log-SNR", ylabel="error / variance of the samples")
    right.legend(fontsize=8, frameon=False)
    for chart in axes:
        chart.title.set_fontsize(9.5)
        plot_style.grid_lines(chart)


def _bands(limits: tuple[float, float]) -> tuple[str, str, str]:
    low, high = limits
    return (f"large: up to {low:g} cycles per image", f"middle: {low:g} to {high:g}", f"details: beyond {high:g}")


def _study_figure(
    context: ImageStudyContext,
    plan: Plan,
    done: Film,
    distance: Tensor,
    log_snr: Tensor,
    share: Tensor,
    limits: tuple[float, float],
) -> StudyFigure:
    halves = {}
    for name, band in zip(("large", "middle", "details"), share.T, strict=True):
        step = determined_from(band)
        halves[name] = {"step": step + 1, "t": float(done.times[step]), "log_snr": _at(log_snr, step)}
    half_times = ", ".join(f"{name} at step {half['step']} (t = {half['t']:.2g})" for name, half in halves.items())
    return StudyFigure(
        "denoising_trajectory.png",
        "Denoising trajectory",
        f"{count_noun(len(done.final), 'sample')} by {plan.sampler}, {count_noun(plan.steps, 'step')}. "
        "Upper rows: x_t, black to white being -(α + 2σ) to α + 2σ. Lower rows: x_0-hat, the mean over all images "
        "from which "
        "x_t may originate, so it is blurred at first; large features appear first and details last. Below left: how "
        "far "
        "x_0-hat is from the sample, one thin line per sample, the mean bold. Below right: the same by "
        "scale, 1 if only "
        f"the mean is known; it falls below a half for {half_times}, of {count_noun(plan.steps, 'step')}.",
        "x_0-hat = E[x_0 | x_t];  e_b(t) = Σ |P_b (x_0-hat - x_0)|², over the variance of the samples in that band",
        "Ho et al. 2020, arXiv:2006.11239, fig. 6; `undiffuse.studies.images.denoising_trajectory:film`",
        {
            **plan._asdict(),
            "num": len(done.final),
            "half_settled": halves,
            "band_limits_cycles": list(limits),
            "rms_by_step": distance.mean(1).tolist(),
            "log_snr_by_step": log_snr.tolist(),
            "missing_by_step": {name: band.tolist() for name, band in zip(halves, share.T, strict=True)},
        },
    )


def _at(log_snr: Tensor, step: int) -> float | None:
    return float(log_snr[step]) if step < len(log_snr) else None
