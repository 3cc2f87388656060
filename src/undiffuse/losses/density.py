"""The distribution of training times: densities of t as maps of a uniform u in (0, 1).

They are inverse distribution functions, so the caller chooses how u is drawn (independent, stratified, fixed).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from undiffuse.core.process import Process
from undiffuse.losses.limits import check_knots_density, check_std

#: (process, u (B,) in (0, 1)) -> t (B,) in (0, 1], float64.
TimeDensity = Callable[[Process, Tensor], Tensor]


def uniform() -> TimeDensity:
    """t uniform in (0, 1)."""
    return lambda process, u: u.double()


def knots() -> TimeDensity:
    """t uniform over the knots k / T, k = 1 ... T, of a discrete process, as in DDPM."""

    def times(process: Process, u: Tensor) -> Tensor:
        num_steps = process.num_steps
        check_knots_density(num_steps)
        assert num_steps is not None
        knot: Tensor = (torch.floor(u.double() * num_steps) + 1).clamp(max=num_steps)
        times_of_knots: Tensor = knot / num_steps
        return times_of_knots

    return times


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimeDensity:
    """log(sigma / alpha) normal (Karras et al. 2022, arXiv:2206.00364, table 1).

    Args:
        mean: of log(sigma / alpha).
        std: of log(sigma / alpha), above 0.
    """
    check_std("log_normal", std)
    return lambda process, u: process.time_of_log_snr(-2 * (mean + std * _normal_quantile(u)))


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeDensity:
    """logit(t) normal (Esser et al. 2024, arXiv:2403.03206, eq. 19).

    Args:
        mean: of logit(t).
        std: of logit(t), above 0.
    """
    check_std("logit_normal", std)
    return lambda process, u: torch.sigmoid(mean + std * _normal_quantile(u))


def _normal_quantile(u: Tensor) -> Tensor:
    quantile: Tensor = torch.special.ndtri(u.double())
    return quantile


TIME_DENSITIES: dict[str, Callable[..., TimeDensity]] = {
    "uniform": uniform,
    "knots": knots,
    "log_normal": log_normal,
    "logit_normal": logit_normal,
}
