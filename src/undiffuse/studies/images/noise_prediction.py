"""Study ``noise-prediction``: the predicted noise against the true noise over t, before and after training.

The best prediction in the squared error is the posterior mean eps* = E[eps | x_t]. By the law of total variance

    Var(eps) = Var(E[eps | x_t]) + E Var(eps | x_t),    that is    1 = std(eps*)^2 + error,

so a perfect model's prediction has a smaller deviation than the noise where x_t does not determine the noise.
For independent Gaussian data of variance v, std(eps*) = sigma / sqrt(alpha^2 v + sigma^2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.config import FrozenModel
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.models.base import denoising
from undiffuse.models.saved import build_untrained
from undiffuse.observer import ProgressCallback
from undiffuse.studies.images.context import ImageArray, ImageStudyContext
from undiffuse.studies.images.noise_levels import level_grid
from undiffuse.studies.plots import image_grid
from undiffuse.studies.plots.plot_style import BLUE, GREY, INK, ORANGE, StudyFigure, charts, grid_lines, save

#: Noise from -3 to 3 is displayed as black to white.
_RANGE = 3.0
_ROWS = ("x_t", "true noise", "predicted,\nbefore training", "predicted,\ntrained", "its error")


class NoisePredictionOptions(FrozenModel):
    """Options of the study.

    Args:
        num: real images shown.
        moments: noise levels shown.
        levels: noise levels of the curves, evenly spaced in the log-SNR over the range of training.
        curve_images: real images over which mean, deviation and error are computed.
    """

    renamed_keys: ClassVar = {"curve_pictures": "curve_images"}  # data

    num: Annotated[int, Field(ge=1, le=16)] = 2
    moments: Annotated[int, Field(ge=2, le=16)] = 8
    levels: Annotated[int, Field(ge=2)] = 14
    curve_images: Annotated[int, Field(ge=1)] = 64


class Moments(dict[str, Tensor]):
    """``mean``, ``std`` and ``error`` (L,) of predicted noise, pooled over pixels and images."""


def study_noise_prediction(
    context: ImageStudyContext, options: NoisePredictionOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """Write ``noise_prediction.png`` and ``noise_moments.png``."""
    before, after = untrained_denoiser(context), context.module.denoiser().eval()
    shown = level_grid(context, options.moments, tail=0.02).flip(0)
    _noise_grid(context, shown, (before, after), options.num, folder / "noise_prediction.png")
    log_snr = level_grid(context, options.levels)
    x_0 = context.to_x(context.real(options.curve_images))
    curves: dict[str, Moments] = {}
    for number, (name, denoiser) in enumerate((("before training", before), ("trained", after))):
        curves[name] = moments_of(context, denoiser, x_0, log_snr)
        on_progress(number + 1, 2)
    curves["true"] = _true(context, x_0, log_snr)
    _draw(context, folder / "noise_moments.png", log_snr, curves)
    return _study_figures(context, log_snr, curves, shown)


def untrained_denoiser(context: ImageStudyContext) -> Denoiser:
    """The same architecture with the initial weights of a training with the context's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        untrained = denoising(build_untrained(context.model.config), "the study 'noise-prediction'")
    return untrained.to(context.device).eval().denoiser().eval()


@torch.no_grad()
def predicted_noise(
    context: ImageStudyContext, denoiser: Denoiser, x_0: Tensor, log_snr: float, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, true noise, predicted noise), each (B, C, H, W), at one level; ``number`` identifies the noise draw."""
    process = context.process
    level = torch.full((len(x_0),), log_snr, dtype=torch.float64, device=x_0.device)
    t = process.time_of_log_snr(level)
    eps = context.noise(len(x_0)).numbered(x_0, number)
    x_t = process.diffuse(x_0, eps, t)
    cond = context.condition(len(x_0), [None])
    return x_t, eps, eps_of(process, x_t, denoiser(x_t, t, cond).x_0, t)


def moments_of(context: ImageStudyContext, denoiser: Denoiser, x_0: Tensor, log_snr: Tensor) -> Moments:
    """Mean, standard deviation and mean squared error of the predicted noise at each level."""
    rows: list[tuple[float, float, float]] = []
    for number, level in enumerate(log_snr.tolist()):
        _, eps, predicted = predicted_noise(context, denoiser, x_0, level, number)
        predicted, eps = predicted.double(), eps.double()
        error = float((predicted - eps).square().mean())
        rows.append((float(predicted.mean()), float(predicted.std(correction=0)), error))
    mean, std, error_of = torch.tensor(rows, dtype=torch.float64).T
    return Moments(mean=mean, std=std, error=error_of)


def _true(context: ImageStudyContext, x_0: Tensor, log_snr: Tensor) -> Moments:
    draws = [context.noise(len(x_0)).numbered(x_0, number).double() for number in range(len(log_snr))]
    mean = torch.stack([eps.mean() for eps in draws])
    std = torch.stack([eps.std(correction=0) for eps in draws])
    return Moments(mean=mean, std=std, error=torch.zeros_like(mean))


def _noise_grid(
    context: ImageStudyContext, log_snr: Tensor, denoisers: tuple[Denoiser, Denoiser], num: int, path: Path
) -> None:
    """Rows x_t, true noise and both predictions for each image; levels to the right."""
    x_0 = context.to_x(context.real(num))
    columns = []
    for level in log_snr.flip(0).tolist():
        x_t, eps, before = predicted_noise(context, denoisers[0], x_0, level, 0)
        after = predicted_noise(context, denoisers[1], x_0, level, 0)[2]
        norm = float(context.process.norm(_time(context, level)))
        columns.append(
            [context.finish(x_t / norm), *(_shown(context, noise) for noise in (eps, before, after, after - eps))]
        )
    rows = [[column[kind][image] for column in columns] for image in range(num) for kind in range(len(_ROWS))]
    labels = [f"t = {float(_time(context, level)):.3g}\nσ/α = {_ratio(level)}" for level in log_snr.flip(0).tolist()]
    gaps = [len(_ROWS) * image for image in range(1, num)]
    table = image_grid.Table(_stacked(rows), row_labels=_ROWS * num, column_labels=labels, row_gaps=gaps)
    image_grid.write([table], path)


def _stacked(rows: list[list[ImageArray]]) -> list[Any]:
    return [np.stack(row) for row in rows]


def _time(context: ImageStudyContext, log_snr: float) -> Tensor:
    return context.process.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64))


def _ratio(log_snr: float) -> str:
    return f"{float(torch.exp(torch.tensor(-log_snr / 2))):.2g}"


def _shown(context: ImageStudyContext, noise: Tensor) -> ImageArray:
    return context.finish(noise / _RANGE)


def _draw(context: ImageStudyContext, path: Path, log_snr: Tensor, curves: dict[str, Moments]) -> None:
    figure, (means, stds, errors) = charts(3, 4.6, 3.6)
    for name, colour in {"true": INK, "before training": ORANGE, "trained": BLUE}.items():
        for axes, key in ((means, "mean"), (stds, "std"), (errors, "error")):
            if (name, key) != ("true", "error"):
                axes.plot(log_snr, curves[name][key], color=colour, label=name)
    implied = (1 - curves["trained"]["error"]).clamp(min=0).sqrt()
    stds.plot(log_snr, implied, color=GREY, linestyle="--", linewidth=1.3, label="sqrt(1 - error), trained")
    marks = log_snr[torch.linspace(0, len(log_snr) - 1, 6).round().long()]
    for axes, title in ((means, "mean"), (stds, "standard deviation"), (errors, "mean squared error")):
        axes.set(title=f"{title} of the noise", xlabel="t, and the log-SNR below it")
        axes.set_xticks(marks, [f"{float(_time(context, mark)):.2g}\n{mark:.1f}" for mark in marks.tolist()])
        axes.set_xlim(float(log_snr[0]), float(log_snr[-1]))
        grid_lines(axes)
    errors.set_yscale("log")
    reach = max(0.05, 1.3 * float(torch.cat([curve["mean"] for curve in curves.values()]).abs().max()))
    means.set_ylim(-reach, reach)
    stds.set_ylim(bottom=0)
    stds.legend(fontsize=8, frameon=False)
    save(figure, path)


def _study_figures(
    context: ImageStudyContext, log_snr: Tensor, curves: dict[str, Moments], shown: Tensor
) -> list[StudyFigure]:
    times = context.process.time_of_log_snr(log_snr).tolist()
    levels: list[dict[str, float]] = [
        {"log_snr": level, "t": t} for level, t in zip(log_snr.tolist(), times, strict=True)
    ]
    for name, curve in curves.items():
        for key, values in curve.items():
            for level, value in zip(levels, values.tolist(), strict=True):
                level[f"{key}_{name.replace(' ', '_')}"] = value
    source = "core.parameterization.eps_of; Ho et al. 2020, arXiv:2006.11239, eqs. 11-12"
    return [
        StudyFigure(
            "noise_prediction.png",
            "Predicted noise and true noise",
            "From left to right each real image has more noise. Rows: x_t at unit variance, the noise in it, "
            "the noise predicted from x_t with initial and with trained weights, and the error of the latter; "
            f"grey is 0, black and white are -{_RANGE:g} and {_RANGE:g}. With initial weights the prediction is what "
            "the "
            "parameterization derives from an output near 0. After training it is almost the true noise where there "
            "is much of "
            "it; at the left, where there is little, it is right in uniform areas and wrong along edges, where noise "
            "and image look alike.",
            "eps-hat = (x_t - alpha x_0-hat) / sigma",
            source,
            {"log_snr": shown.flip(0).tolist()},
        ),
        StudyFigure(
            "noise_moments.png",
            "Mean, deviation and error of the predicted noise",
            "Over all pixels of real images. The true noise has mean 0 and deviation 1. A trained model predicts the "
            "posterior mean E[eps | x_t], and by the law of total variance its deviation squared is 1 less the error: "
            "the less x_t determines the noise, the smaller the prediction. The dashed line is the deviation that the "
            "error implies; where the trained curve departs from it, the prediction is not the posterior mean. "
            "Before training "
            "there is no such relation.",
            "1 = std(E[eps | x_t])^2 + E ||eps - E[eps | x_t]||^2 / D",
            source,
            {"levels": levels},
        ),
    ]
