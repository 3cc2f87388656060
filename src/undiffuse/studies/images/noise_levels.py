"""Study ``noise-levels``: the denoising error against the noise level, on training and on held-out images.

At each level the error is compared with three reference errors: that of predicting the mean image, that of predicting
x_t / alpha, and that of the best linear denoiser, which only uses the mean and the covariance of the images. With
eigenvalues v_i of that covariance its error is

    e(lambda) = 1/D sum_i  v_i SNR / (1 + v_i SNR)          of the noise, a posterior variance in closed form.

A network that learned more than the covariance has a lower error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from undiffuse.config import Component, ComponentConfig, FrozenModel, build
from undiffuse.core.process import Process
from undiffuse.errors import UsageError
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.levels import loss_by_level
from undiffuse.losses.weighting import WEIGHTINGS, LogWeight
from undiffuse.observer import ProgressCallback
from undiffuse.samplers.grids import WIDEST_LOG_SNR
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.plots.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SETTINGS,
    StudyFigure,
    figure,
    grid_lines,
    save,
)

__all__ = ["NoiseLevelsOptions", "level_grid", "linear_error", "loss_by_level", "study_noise_levels", "training_levels"]

#: Images for mean and covariance, and the largest number of pixels for which the covariance is computed.
_FOR_COVARIANCE, _LARGEST_COVARIANCE = 5000, 1100
_DRAWS, _BINS = 4000, 60
_SPLITS = {"training": "training", "held_out": "held out"}
#: Predictors that need no network: label, colour and line style.
_REFERENCES = {
    "mean_picture": ("mean image", ORANGE, ":"),
    "x_t_over_alpha": ("x_t / alpha itself", GREY, ":"),
    "linear": ("best linear denoiser", GREEN, "--"),
}
_NAMES = {"eps": "of the noise", "x0": "of the image", "v": "of v", "own": "as weighted in training"}


class NoiseLevelsOptions(FrozenModel):
    """Options of the study.

    Args:
        num: images per split.
        levels: noise levels, evenly spaced in the log-SNR over the range of training.
        error: shown next to the error of the noise: ``v`` (for alpha^2 + sigma^2 = 1), which is bounded at both ends,
            ``x0``, or ``own``, the weighting of the model's training.
    """

    num: Annotated[int, Field(ge=2)] = 96
    levels: Annotated[int, Field(ge=2)] = 20
    error: Literal["v", "x0", "own"] = "v"


def training_levels(context: ImageStudyContext, num: int = _DRAWS) -> Tensor | None:
    """``num`` evenly spaced quantiles of the log-SNR in training, descending; ``None`` if the config has no density."""
    named = _component(context, "time_density", TIME_DENSITIES)
    if named is None:
        return None
    u = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    found: Tensor = context.process.log_snr(build(TIME_DENSITIES, named)(context.process, u))
    return found.sort(descending=True).values


def _component(context: ImageStudyContext, key: str, registry: Any) -> ComponentConfig | None:
    values = context.model.config["config"]["system"].get(key)
    return Component(registry, key).pick(values) if values else None


def level_grid(context: ImageStudyContext, num: int, tail: float = 0.0025) -> Tensor:
    """``num`` log-SNRs, evenly spaced and descending, over the training range without the ``tail`` quantile at each
    end.
    """
    low, high = context.module.log_snr_range
    if (drawn := training_levels(context)) is not None:
        ends = drawn[[-1 - int(tail * len(drawn)), int(tail * len(drawn))]].tolist()
        low, high = max(low, ends[0]), min(high, ends[1])
    low, high = max(low, WIDEST_LOG_SNR[0]), min(high, WIDEST_LOG_SNR[1])
    return torch.linspace(high, low, num, dtype=torch.float64)


def linear_error(eigenvalues: Tensor, log_snr: Tensor) -> Tensor:
    """Error of the noise (L,) of the best linear denoiser: the mean of v SNR / (1 + v SNR) over the eigenvalues v."""
    signal = eigenvalues.double().clamp(min=0)[None] * torch.exp(log_snr.double())[:, None]
    return (signal / (1 + signal)).mean(1)


class Curves(NamedTuple):
    """Errors of the noise at log-SNRs (L,).

    Attributes:
        errors: errors (L, B) of the model, by split.
        references: errors (L,) of predictors that need no network.
        name, factor: name of the second error shown, and the factor (L,) from the error of the noise to it.
    """

    log_snr: Tensor
    errors: dict[str, Tensor]
    references: dict[str, Tensor]
    name: str
    factor: Tensor


def study_noise_levels(
    context: ImageStudyContext, options: NoiseLevelsOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """Draw the errors and write ``noise_levels.png``."""
    log_snr = level_grid(context, options.levels)
    errors = _errors(context, options.num, log_snr, on_progress)
    factor = _factor(context, options.error, log_snr)
    curves = Curves(log_snr, errors, _reference_errors(context, log_snr), options.error, factor)
    _draw(folder / "noise_levels.png", curves, training_levels(context))
    return [_study_figure(_numbers(context.process, curves), options, "held_out" in errors)]


def _errors(context: ImageStudyContext, num: int, log_snr: Tensor, on_progress: ProgressCallback) -> dict[str, Tensor]:
    """Errors of the noise (L, B) of each split; image i of both splits gets the same noise."""
    train, held_out = context.data
    splits = {"training": train, "held_out": held_out}
    errors, total = {}, len(log_snr) * 2
    for number, (split, dataset) in enumerate(splits.items()):
        if (count := min(num, len(train), len(dataset) or num)) < 2 or len(dataset) == 0:
            continue
        x_0, rows = context.to_x(context.real(count, _SPLITS[split])), []
        for index in range(len(log_snr)):
            noise = context.noise(count, first=index * num)
            rows.append(loss_by_level(context.module, x_0, log_snr[index : index + 1], noise))
            on_progress(number * len(log_snr) + index + 1, total)
        errors[split] = torch.cat(rows)
    return errors


def _reference_errors(context: ImageStudyContext, log_snr: Tensor) -> dict[str, Tensor]:
    """Errors of the noise (L,) of predictors that need no network."""
    images = context.to_x(context.real(_FOR_COVARIANCE, "training")).flatten(1).double().cpu()
    snr = torch.exp(log_snr)
    variances = images.var(0, unbiased=False)
    found = {"mean_picture": snr * variances.mean(), "x_t_over_alpha": torch.ones_like(snr)}
    if images.shape[1] <= min(_LARGEST_COVARIANCE, len(images) - 1):
        found["linear"] = linear_error(torch.linalg.eigvalsh(images.T.cov()), log_snr)
    return found


def _factor(context: ImageStudyContext, error: str, log_snr: Tensor) -> Tensor:
    """Factor (L,) from the error of the noise to another error."""
    if error == "x0":
        return torch.exp(-log_snr)
    if error == "v":
        return 1 + torch.exp(-log_snr)
    named = _component(context, "weighting", WEIGHTINGS)
    if named is None:
        raise UsageError("this model's config.json has no weighting; set error=x0 or error=v")
    log_weight: LogWeight = build(WEIGHTINGS, named)
    t = context.process.time_of_log_snr(log_snr)
    factor: Tensor = torch.exp(log_weight(context.process, t) - log_snr)
    return factor


def _draw(path: Path, curves: Curves, drawn: Tensor | None) -> None:
    import matplotlib

    fig = figure(11.2, 5.0)
    with matplotlib.rc_context(SETTINGS):
        grid = fig.subplots(2, 2, sharex=True, gridspec_kw={"height_ratios": (3.4, 1)})
    for column, shown in enumerate((curves._replace(name="eps", factor=torch.ones_like(curves.factor)), curves)):
        axes, below = grid[:, column]
        _curves(axes, shown)
        axes.set(title=f"squared error {_NAMES[shown.name]}", ylabel="mean over pixels")
        _density(below, drawn, curves.log_snr)
    grid[0, 0].legend(fontsize=8, frameon=False, loc="lower left")
    save(fig, path)


def _curves(axes: Any, curves: Curves) -> None:
    log_snr, errors, references, _, factor = curves
    for key, values in references.items():
        label, colour, style = _REFERENCES[key]
        axes.plot(log_snr, values * factor, color=colour, linestyle=style, label=label, linewidth=1.3)
    for colour, (split, rows) in zip((BLUE, RED), errors.items(), strict=False):
        mean, wide = rows.mean(1) * factor, 2 * _standard_error(rows) * factor
        axes.plot(log_snr, mean, color=colour, label=f"the model, {_SPLITS[split]}")
        axes.fill_between(log_snr, mean - wide, mean + wide, color=colour, alpha=0.2, linewidth=0)
    network = torch.stack([rows.mean(1) * factor for rows in errors.values()])
    axes.set_yscale("log")
    identity_error = float((references["x_t_over_alpha"] * factor).min())
    axes.set_ylim(float(network.min()) / 2, max(4 * float(network.max()), 1.5 * identity_error))
    grid_lines(axes)


def _density(axes: Any, drawn: Tensor | None, log_snr: Tensor) -> None:
    low, high = float(log_snr[-1]), float(log_snr[0])
    if drawn is not None:
        inside = drawn[(drawn >= low) & (drawn <= high)].numpy()
        axes.hist(inside, bins=_BINS, range=(low, high), color="#9fb8cc", density=True)
    axes.set(xlabel="log-SNR (noisier to the right)", ylabel="training\ndraws", yticks=[], xlim=(high, low))


def _standard_error(rows: Tensor) -> Tensor:
    error: Tensor = rows.std(1) / rows.shape[1] ** 0.5
    return error


def _numbers(process: Process, curves: Curves) -> dict[str, Any]:
    log_snr, errors, references, name, factor = curves
    levels: list[dict[str, Any]] = [
        {"log_snr": level, "t": t}
        for level, t in zip(log_snr.tolist(), process.time_of_log_snr(log_snr).tolist(), strict=True)
    ]
    columns = dict(references)
    for split, rows in errors.items():
        columns |= {f"error_{split}": rows.mean(1), f"standard_error_{split}": _standard_error(rows)}
    if len(errors) == 2:
        a, b = errors["held_out"], errors["training"]
        columns["gap"] = a.mean(1) - b.mean(1)
        columns["gap_standard_error"] = (_standard_error(a) ** 2 + _standard_error(b) ** 2).sqrt()
    columns[f"factor_{name}"] = factor
    for key, values in columns.items():
        for level, value in zip(levels, values.tolist(), strict=True):
            level[key] = value
    num_images = {split: rows.shape[1] for split, rows in errors.items()}
    return {"levels": levels, "pictures": num_images}  # data


def _study_figure(numbers: dict[str, Any], options: NoiseLevelsOptions, held_out: bool) -> StudyFigure:
    counts: Sequence[str] = list(numbers["pictures"].values())  # data
    held_out_note = "" if held_out else " No image was held out, so there is no second curve."
    return StudyFigure(
        "noise_levels.png",
        "Loss by noise level",
        f"Mean squared error of the model against the noise level, {counts[0]} images per split with the same noise, "
        "bands "
        f"of two standard errors; left: error of the predicted noise, right: {_NAMES[options.error]}. A curve must "
        "be below "
        "those of the predictors that need no network: the mean image, x_t / alpha (error 1 of the noise), "
        "and, for small images, the best linear denoiser, which only uses their covariance. "
        "A higher error on held-out than on training images means that the training set is memorised, most "
        "visibly in the middle. Below: how often training draws each level; rare levels may have a large error "
        f"because of insufficient training.{held_out_note}",
        "e(lambda) = E ||eps - eps-hat||^2 / D = SNR E ||x_0 - x_0-hat||^2 / D; linear: mean of v SNR / (1 + v SNR) "
        "over the eigenvalues v of the covariance",
        "losses.levels.loss_by_level; Kingma et al. 2021, arXiv:2107.00630, sec. 3; Nichol & Dhariwal 2021, "
        "arXiv:2102.09672, fig. 2",
        numbers,
    )
