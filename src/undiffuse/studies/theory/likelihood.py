"""The likelihood figure: a map of log p of the model by its probability-flow ODE, with the exact density."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.samplers.likelihood import log_likelihood
from undiffuse.studies.plots import plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.studies.theory.context import LIMIT, TheoryContext, device_of, plane

_SIDE, _POINTS, _CHUNK = 60, 500, 2000
#: Tolerance of the solver: its error in log p is far below the resolution of the map.
_TOLERANCE = 1e-4
#: Smallest noise ratio of the compared density: with less noise the map would show a line one pixel wide.
SMALLEST_RATIO = 0.05
_DEPTH = 12.0  # range of the colour scale below the peak, in nats


def model_log_density(context: TheoryContext, x: Tensor, ratio: float) -> Tensor:
    """log density (B,) in nats of the model's x_0 + ratio eps at ``x`` (B, 2), in the units of the data."""
    clean = -2 * math.log(ratio)
    device = device_of(context.denoiser)
    dtype = torch.float64 if context.exact else torch.float32
    parts = [
        log_likelihood(
            context.denoiser,
            part.to(device=device, dtype=dtype),
            probes="exact",
            log_snr_range=(None, clean),
            rtol=_TOLERANCE,
            atol=_TOLERANCE,
        ).nats.cpu()
        for part in (x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK))
    ]
    return torch.cat(parts)


def true_log_density(context: TheoryContext, x: Tensor, ratio: float) -> Tensor:
    """The exact log density, in closed form."""
    t = context.at_ratio(ratio, len(x))
    alpha = context.process.alpha(t)
    return context.truth.log_prob(alpha[:, None] * x.double(), context.process, t) + 2 * torch.log(alpha)


def likelihood_numbers(context: TheoryContext, ratio: float) -> dict[str, float]:
    """Mean -log p of exact draws under the model and under the exact distribution.

    Their difference is the Kullback-Leibler divergence KL(truth, model), with its standard error over the draws.
    """
    generator = context.generator(6)
    x_0 = context.truth.sample(_POINTS, generator)
    y = x_0 + ratio * torch.randn(x_0.shape, dtype=torch.float64, generator=generator)
    model, true = model_log_density(context, y, ratio), true_log_density(context, y, ratio)
    gap = true - model
    return {
        "ratio": ratio,
        "points": _POINTS,
        "nll_nats": float(-model.mean()),
        "entropy_nats": float(-true.mean()),
        "kl_nats": float(gap.mean()),
        "kl_standard_error": float(gap.std() / _POINTS**0.5),
        "mean_absolute_error_nats": float(gap.abs().mean()),
    }


def likelihood_map(context: TheoryContext, folder: Path) -> StudyFigure:
    """``likelihood.png``: log p of truth and model on one colour scale, and their difference."""
    ratio = max(context.ratio_range()[0], SMALLEST_RATIO)
    points = plane(_SIDE)
    model, true = model_log_density(context, points, ratio), true_log_density(context, points, ratio)
    numbers = likelihood_numbers(context, ratio)
    figure, axes = plot_style.panels(1, 3, size=3.3, extra=1.6)
    peak = float(true.max())
    common: dict[str, Any] = {"cmap": "viridis", "vmin": peak - _DEPTH, "vmax": peak}
    plot_style.image(axes[0][0], true, **common)
    drawn = plot_style.image(axes[0][1], model, **common)
    counts = (true > peak - _DEPTH) | (model > peak - _DEPTH)
    difference = torch.where(counts, model.clamp(min=peak - _DEPTH) - true.clamp(min=peak - _DEPTH), torch.nan)
    difference_image = plot_style.image(axes[0][2], difference, cmap="PuOr", vmin=-2, vmax=2)
    for panel, title in zip(axes[0], ("truth", "model", "model − truth"), strict=True):
        plot_style.frame(panel, title, LIMIT)
    figure.colorbar(drawn, ax=list(axes[0][:2]), shrink=0.85, pad=0.01, extend="min").set_label("log p, nats")
    figure.colorbar(difference_image, ax=axes[0][2], shrink=0.85, pad=0.02, extend="both").set_label("nats")
    plot_style.save(figure, folder / "likelihood.png")
    return StudyFigure(
        "likelihood.png",
        "Log-likelihood by the probability-flow ODE",
        f"log p of the data with a little noise (r = {ratio:.2g}), in closed form and by the ODE of the model with the "
        f"exact trace; right: the difference where either is within {_DEPTH:.0f} nats of the peak: outside the data "
        "a trained model's "
        f"density falls less steeply than the exact density. On {numbers['points']} exact draws the model's mean "
        "−log p is "
        f"{numbers['nll_nats']:.4f} nats, that of the exact distribution (the entropy) "
        f"{numbers['entropy_nats']:.4f}: KL {numbers['kl_nats']:.4f} ± {numbers['kl_standard_error']:.4f}.",
        "log p(x) = log p_T(x_T) + ∫ div f dλ along dx~/dλ = −½ a b v",
        "Song et al. 2021, arXiv:2011.13456, eq. 39; `undiffuse.samplers.likelihood:log_likelihood`",
        numbers,
    )
