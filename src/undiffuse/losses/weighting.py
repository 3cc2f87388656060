"""Weightings of the denoising loss, each the logarithm of a weight on ||x_0 - x_0-hat||^2.

Defined on x_0, they do not depend on the parameterization; ``Parameterization.output_weight`` turns them into a weight
on the error of the network's output, which avoids division by a vanishing coefficient.

===============  ==============================================  =====================================================
row              weight on x_0 (SNR = exp lambda)                source
===============  ==============================================  =====================================================
``simple``       SNR: the plain error of eps                     Ho et al. 2020, eq. 14
``score``        the same: ||score error||^2 with sigma^2         Song et al. 2021, arXiv:2011.13456, eq. 7
``likelihood``   g^2 alpha^2 / (2 sigma^4) = -SNR'(t) / 2        Song et al. 2021, arXiv:2101.09258, eq. 8
``variational``  c_0^2 / (2 variance): the bound's own           Ho et al. 2020, eq. 12
``uniform``      1: the plain error of x_0
``posterior_mean``  c_0^2: the plain error of the posterior mean  Ho et al. 2020, table 2, first rows
``truncated_snr``  max(SNR, 1): at least the plain error of x_0   Salimans & Ho 2022, arXiv:2202.00512, sec. 4
``velocity``     SNR + 1: the plain error of v                   Salimans & Ho 2022, arXiv:2202.00512
``min_snr``      min(SNR, gamma)                                 Hang et al. 2023, arXiv:2303.09556
``edm``          (r^2 + s^2) / (r s)^2, r^2 = 1 / SNR            Karras et al. 2022, arXiv:2206.00364, table 1
``flow``         (1 + 1 / r)^2: the plain error of the velocity  Lipman et al. 2022, arXiv:2210.02747
``sigmoid``      SNR sigmoid(bias - lambda)                      Kingma & Gao 2023, arXiv:2303.00848
===============  ==============================================  =====================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.core.parameterization import DATA_STD
from undiffuse.core.process import Process
from undiffuse.losses.limits import check_gamma, check_variance

#: log w(t) on ||x_0 - x_0-hat||^2: (process, t (B,)) -> (B,) float64.
LogWeight = Callable[[Process, Tensor], Tensor]


def simple() -> LogWeight:
    """||eps - eps-hat||^2 with weight 1: L_simple."""
    return lambda process, t: process.log_snr(t)


def score() -> LogWeight:
    """sigma^2 ||score error||^2, the score's error being alpha (x_0 - x_0-hat) / sigma^2: the weights of ``simple``.

    The losses of Song et al. for VE, ||sigma s + eps||^2, and for VP, ||eps-hat - eps||^2 with eps-hat = -sigma s.
    """
    return simple()


def likelihood() -> LogWeight:
    """g^2 / 2 ||score - score-hat||^2: with uniform times, the continuous-time bound on -log p up to constants.

    It is unbounded towards t = 0 if sigma vanishes there, and a few draws then dominate the loss. For a discrete chain,
    whose g^2 jumps at the knots, the weights of the bound are ``variational``.
    """
    return log_half_snr_rate


def log_half_snr_rate(process: Process, t: Tensor) -> Tensor:
    """log of -SNR'(t) / 2 = g^2 alpha^2 / (2 sigma^4) = alpha (alpha sigma' - alpha' sigma) / sigma^3.

    Args:
        process: the forward process.
        t: (B,) times in (0, 1].
    Returns:
        (B,) float64.
    Source: Kingma et al. 2021, arXiv:2107.00630, eq. 17.
    """
    # this form is 0 at alpha = 0, not 0 times infinity
    alpha, sigma, (d_alpha, d_sigma) = process.alpha(t), process.sigma(t), process.rates(t)
    return torch.log(alpha) + torch.log(alpha * d_sigma - d_alpha * sigma) - 3 * torch.log(sigma)


def uniform() -> LogWeight:
    """||x_0 - x_0-hat||^2 with weight 1."""
    return lambda process, t: torch.zeros_like(t, dtype=torch.float64)


def velocity() -> LogWeight:
    """||v - v-hat||^2 with weight 1 where alpha^2 + sigma^2 = 1 ("SNR + 1" weighting)."""
    return lambda process, t: F.softplus(process.log_snr(t), threshold=40)


def truncated_snr() -> LogWeight:
    """max(SNR, 1) on x_0: the larger of the plain errors of x_0 and eps, so the weight at pure noise is not 0."""
    return lambda process, t: process.log_snr(t).clamp(min=0.0)


def min_snr(gamma: float = 5.0) -> LogWeight:
    """min(SNR, gamma) on x_0."""
    check_gamma(gamma)
    return lambda process, t: process.log_snr(t).clamp(max=math.log(gamma))


def edm(data_std: float = DATA_STD) -> LogWeight:
    """1 / c_out^2 of the ``edm`` parameterization: unit weight on its network's error."""

    def log_weight(process: Process, t: Tensor) -> Tensor:
        # (r^2 + s^2) / (r s)^2 = 1 / s^2 + SNR
        log_snr = process.log_snr(t)
        return torch.logaddexp(log_snr, torch.full_like(log_snr, -2 * math.log(data_std)))

    return log_weight


def flow() -> LogWeight:
    """Unit weight on the velocity of the straight path at the same log-SNR: 1 / t_flow^2 = (1 + 1 / r)^2."""
    return lambda process, t: 2 * F.softplus(process.log_snr(t) / 2, threshold=40)


def sigmoid(bias: float = 0.0) -> LogWeight:
    """sigmoid(bias - lambda) on eps: low weight on almost clean images."""

    def log_weight(process: Process, t: Tensor) -> Tensor:
        log_snr = process.log_snr(t)
        return log_snr + F.logsigmoid(bias - log_snr)

    return log_weight


def variational(variance: str = "beta") -> LogWeight:
    """The weight of the bound's terms, c_0^2 / (2 variance) at neighbouring knots.

    On eps this is beta^2 / (2 variance alpha (1 - alpha-bar)). A process without steps uses the limit of fine grids,
    -SNR'(t) / 2 (Kingma et al. 2021, arXiv:2107.00630, eq. 17). beta-tilde vanishes at the first knot, whose term is
    the decoder's: the second knot's value is used there, as in the bound.

    Args:
        variance: of the reverse step, ``beta`` or ``beta_tilde``.
    """
    check_variance(variance)

    def log_weight(process: Process, t: Tensor) -> Tensor:
        num_steps = process.num_steps
        if num_steps is None:
            return log_half_snr_rate(process, t)
        step = 1 / num_steps
        bridge = process.bridge((t - step).clamp(min=0), t)
        var = bridge.var_max
        if variance == "beta_tilde":
            later = t.clamp(min=2 * step)
            var = process.bridge(later - step, later).var
        return 2 * torch.log(bridge.c_0) - torch.log(2 * var)

    return log_weight


def posterior_mean() -> LogWeight:
    """||mean - mean-hat||^2 of q(x_s | x_t, x_0) with weight 1, s and t neighbouring knots: c_0^2 on x_0.

    A process without steps uses the limit of fine grids, (alpha lambda')^2 per step squared.
    """

    def log_weight(process: Process, t: Tensor) -> Tensor:
        num_steps = process.num_steps
        if num_steps is None:
            alpha, sigma, (d_alpha, d_sigma) = process.alpha(t), process.sigma(t), process.rates(t)
            return 2 * torch.log(2 * (alpha * d_sigma / sigma - d_alpha))
        return 2 * torch.log(process.bridge((t - 1 / num_steps).clamp(min=0), t).c_0)

    return log_weight


WEIGHTINGS: dict[str, Callable[..., LogWeight]] = {
    "simple": simple,
    "score": score,
    "likelihood": likelihood,
    "variational": variational,
    "uniform": uniform,
    "posterior_mean": posterior_mean,
    "velocity": velocity,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "edm": edm,
    "flow": flow,
    "sigmoid": sigmoid,
}
