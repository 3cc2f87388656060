"""Solvers of the reverse-time SDE: Euler-Maruyama in a common time variable, and Song's reverse diffusion.

With x~ = x / sqrt(alpha^2 + sigma^2) every process is the same Ornstein-Uhlenbeck process in the time variable

    tau = log(alpha^2 / (alpha^2 + sigma^2)) = log sigmoid(lambda),  from -infinity (alpha = 0) to 0 (sigma = 0):

forwards, with decreasing tau, dx~ = -x~ / 2 |dtau| + dW, and in reverse, with increasing tau,

    dx~ = (x~ / 2 + grad log p(x~)) dtau + dW.

For a variance-preserving process tau is minus the integral of beta, so this is the reverse-time SDE of Song et al. in a
smooth time variable; other processes are converted to x~. Both samplers take their noise from the sample's Brownian
path in SNR: dW = sigma~^2 / alpha~ dW_SNR, with a positive factor, so the normalised increments are the same to leading
order and each sample converges as the grid is refined.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import score_of
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.samplers.ancestral import finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource

#: The longest Euler-Maruyama step in tau: for longer steps 1 - dtau / 2, the factor of pure noise, is negative.
_MAX_STEP = 2.0


def brownian_noise(process: Process, steps: Steps, noise: NoiseSource, like: Tensor) -> Tensor:
    """Each sample's normalised Brownian increment over its step from t to s.

    Args:
        process: the forward process.
        steps: the step of each sample.
        noise: source with a Brownian path per sample.
        like: (B, ...) tensor that gives shape, dtype and device.
    """
    return noise.brownian(torch.exp(process.log_snr(steps.t)), torch.exp(process.log_snr(steps.s)), like)


def finalize_where_clean(process: Process, steps: Steps, moved: Tensor, x_0: Tensor) -> Tensor:
    """Replace x at s by x_0-hat for final steps and for steps to sigma = 0.

    Args:
        process: the forward process.
        steps: the step of each sample.
        moved: (B, ...) x at s from the sampler's formula.
        x_0: (B, ...) x_0-hat of the step.
    """
    return finalize(steps._replace(final=steps.final | (process.sigma(steps.s) == 0)), moved, x_0)


def _euler_maruyama_step(
    denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource
) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0, z = denoiser(x, t).x_0, brownian_noise(process, steps, noise, x)
    d_tau = F.logsigmoid(process.log_snr(s)) - F.logsigmoid(process.log_snr(t))
    scale_t, scale_s = process.norm(t), process.norm(s)
    # grad log p(x~) = -sqrt(alpha^2 + sigma^2) eps / sigma, so in x the three coefficients share scale_s / scale_t
    by_x = 1 + d_tau / 2 - d_tau * (scale_t / process.sigma(t)) ** 2
    by_x_0 = d_tau * scale_t**2 * process.alpha(t) / process.sigma(t) ** 2
    bridge = process.bridge(s, t)
    short = d_tau <= _MAX_STEP
    c_t = torch.where(short, scale_s / scale_t * by_x, bridge.c_t)
    c_0 = torch.where(short, scale_s / scale_t * by_x_0, bridge.c_0)
    std = torch.where(short, scale_s * d_tau.sqrt(), bridge.var.sqrt())
    moved = per_row(c_t, x) * x + per_row(c_0, x) * x_0 + per_row(std, x) * z
    return finalize_where_clean(process, steps, moved, x_0), memory


def euler_maruyama() -> Sampler:
    """x~_s = x~_t + (x~_t / 2 + grad log p(x~_t)) dtau + sqrt(dtau) z, the reverse-time SDE of this module.

    A step of dtau > 2, such as that from alpha = 0 with infinite dtau, would overshoot the origin; the bridge is used
    instead, which integrates the linear part exactly.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 6 and appendix D; Anderson 1982 for the reverse-time SDE.
    """
    return Sampler(
        "euler_maruyama",
        _euler_maruyama_step,
        order=1,
        max_nfe_per_step=1,
        stochastic=True,
        source="arXiv:2011.13456",
        needs_brownian=True,
    )


def _reverse_diffusion_step(
    denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource
) -> tuple[Tensor, Memory]:
    process = denoiser.process
    x_0, z = denoiser(x, steps.t).x_0, brownian_noise(process, steps, noise, x)
    bridge = process.bridge(steps.s, steps.t)
    score = score_of(process, x, x_0, steps.t)
    mean = per_row(2 - bridge.alpha_ts, x) * x + per_row(bridge.var_max, x) * score
    moved = mean + per_row(bridge.var_max.sqrt(), x) * z
    return finalize_where_clean(process, steps, moved, x_0), memory


def reverse_diffusion() -> Sampler:
    """x_s = x_t - f + G^2 score + G z, with f and G of the forward chain from s to t.

    The chain is x_t = alpha_ts x_s + sqrt(var_max) z, so f = (alpha_ts - 1) x_t and G^2 = var_max: for a
    variance-preserving process (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z, for a variance-exploding one
    x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z.

    Source: Song et al. 2021, arXiv:2011.13456, eqs. 45-46 and appendix E.
    """
    return Sampler(
        "reverse_diffusion",
        _reverse_diffusion_step,
        order=1,
        max_nfe_per_step=1,
        stochastic=True,
        source="arXiv:2011.13456",
        needs_brownian=True,
    )
