"""The noise schedule of a trained model and its training distribution of noise levels, as plain arrays to plot.

Over time: alpha, sigma and the log-SNR lambda = 2 log(alpha / sigma). Over the log-SNR: the density p(lambda) of the
noise levels that training draws, the weight w(lambda) of its loss on ||eps - eps-hat||^2, and p w with integral 1, the
effective weight of each level (Kingma & Gao 2023, arXiv:2303.00848, sec. 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from undiffuse.config import Component, build
from undiffuse.core.process import Process
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.weighting import WEIGHTINGS, LogWeight
from undiffuse.models.base import DenoisingModel, GenerativeModel

Values = npt.NDArray[np.float64]

#: Largest absolute log-SNR shown: beyond it x_t is noise, or data, in float32.
MAX_LOG_SNR = 20.0
_TIMES, _LEVELS, _DRAWS = 257, 160, 8192
_TAIL = 1e-5  # fraction of the draws at either end that is not shown


class Schedule(NamedTuple):
    """Curves of a process and of the training loss of a model; NaN where a value is not finite.

    Attributes:
        t, alpha, sigma, log_snr: (T,) each.
        level: (L,) log-SNRs used in training, ascending; empty if the configuration has no time density.
        density: (L,) of the training draws over the log-SNR; its integral is the fraction of draws in this range.
        weight: (L,) of the loss on ||eps - eps-hat||^2, with maximum 1; empty if the loss has no fixed weights.
        note: a limitation of the curves, or "".
    """

    t: Values
    alpha: Values
    sigma: Values
    log_snr: Values
    level: Values
    density: Values
    weight: Values
    note: str = ""

    @property
    def share(self) -> Values:
        """p w, (L,), with integral 1; empty without weights."""
        if not len(self.weight):
            return self.weight
        product = self.density * self.weight
        total = float(np.trapezoid(product, self.level))
        return np.asarray(product / total if total > 0 else product)


def schedule_of(system: GenerativeModel, record: Mapping[str, Any]) -> Schedule | None:
    """The curves of a model, ``None`` for one without a forward process.

    Args:
        record: the model's ``config.json``; without ``weighting`` or ``time_density`` only the curves over time.
    """
    if not isinstance(system, DenoisingModel):
        return None
    process, config = system.process, record["config"]["system"]
    t = torch.linspace(0, 1, _TIMES, dtype=torch.float64)
    level = density = weight = np.empty(0)
    if "time_density" in config:
        level, density = level_density(process, _build(TIME_DENSITIES, config["time_density"], "time density"))
        if len(level) and config.get("objective") != "variational" and "weighting" in config:
            weight = weight_on_noise(process, _build(WEIGHTINGS, config["weighting"], "weighting"), level)
    alpha, sigma, log_snr = (_finite(values) for values in (process.alpha(t), process.sigma(t), process.log_snr(t)))
    return Schedule(t.numpy(), alpha, sigma, log_snr, level, density, weight, _note(config))


def level_density(process: Process, density: TimeDensity) -> tuple[Values, Values]:
    """(log-SNRs (L,) ascending, density of the training draws there); empty if the draws have too few values.

    The density is the slope of the distribution function, which is exact at the draws of a fine grid of u; between the
    knots of a chain it is 1 / T over the difference of their log-SNRs.
    """
    edges = _edges_of_u(process.num_steps)
    drawn = process.log_snr(density(process, (edges[1:] + edges[:-1]) / 2)).numpy()
    order = np.argsort(drawn, kind="stable")
    values, first = np.unique(drawn[order], return_index=True)
    masses = np.add.reduceat(edges.diff().numpy()[order], first)
    below = np.cumsum(masses) - masses / 2
    shown = np.abs(values) <= MAX_LOG_SNR
    if shown.sum() < 3:
        return np.empty(0), np.empty(0)
    values, below = values[shown], below[shown]
    bins = np.linspace(values[0], values[-1], _LEVELS + 1)
    slopes = np.diff(np.interp(bins, values, below)) / np.diff(bins)
    return (bins[1:] + bins[:-1]) / 2, slopes


def _edges_of_u(num_steps: int | None) -> torch.Tensor:
    """Edges of a partition of (0, 1): uniform over the steps of a chain, else finer towards both ends."""
    if num_steps:
        return torch.linspace(0, 1, num_steps * max(1, _DRAWS // num_steps) + 1, dtype=torch.float64)
    end = math.log(1 / _TAIL)
    return torch.sigmoid(torch.linspace(-end, end, _DRAWS + 1, dtype=torch.float64))


def weight_on_noise(process: Process, log_weight: LogWeight, level: Values) -> Values:
    """w on ||eps - eps-hat||^2 at log-SNRs (L,), scaled so that the largest is 1.

    ||x_0 - x_0-hat||^2 = ||eps - eps-hat||^2 / SNR, so the weight on x_0 is divided by the SNR.
    """
    levels = torch.from_numpy(level)
    logs = log_weight(process, process.time_of_log_snr(levels)) - levels
    return np.asarray(_finite((logs - logs[torch.isfinite(logs)].max()).exp()))


def _build(registry: Mapping[str, Any], config: Mapping[str, Any], kind: str) -> Any:
    return build(dict(registry), Component(registry, kind).pick(config))


def _finite(values: torch.Tensor) -> Values:
    return np.asarray(torch.where(torch.isfinite(values), values, torch.nan).double().numpy())


def _note(config: Mapping[str, Any]) -> str:
    if config.get("objective") == "variational":
        return "It was trained on the variational bound, whose weights depend on the learned variance; not shown."
    if config.get("objective") == "hybrid":
        return "The weight shown is that of the denoising part of the hybrid loss."
    if config.get("time_draws") == "importance":
        return "Importance sampling changes the density during training; the initial density is shown."
    return ""
