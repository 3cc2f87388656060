"""Solvers of the reverse-time SDE: Euler-Maruyama in one clock for all processes, and Song's reverse diffusion.

With x~ = x / sqrt(alpha^2 + sigma^2) every process is the same Ornstein-Uhlenbeck process, run by the clock

    tau = log(alpha^2 / (alpha^2 + sigma^2)) = log sigmoid(lambda),  from -infinity (alpha = 0) to 0 (sigma = 0):

forwards, with tau falling, dx~ = -x~ / 2 |dtau| + dW, and in reverse, with tau rising,

    dx~ = (x~ / 2 + grad log p(x~)) dtau + dW.

For a variance-preserving process tau is minus the integral of beta, so this is the reverse-time SDE of Song et al.
itself, in a clock without kinks; other processes are read through x~. Both samplers take their noise from the sample's
Brownian path in SNR: dW = sigma~^2 / alpha~ dW_SNR, with a positive factor, so the normalised increments are the same
to leading order and finer grids approach one limit, image by image.
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

#: The longest step in tau that Euler-Maruyama takes: beyond it 1 - dtau / 2, its factor on pure noise, is negative.
_LONGEST = 2.0


def brownian_noise(process: Process, steps: Steps, noise: NoiseSource, like: Tensor) -> Tensor:
    """Each sample's normalised Brownian increment over its step from t to s.

    Args:
        process: the forward process.
        steps: of each sample.
        noise: with a Brownian path per sample.
        like: (B, ...) whose shape, dtype and device are taken.
    """
    return noise.brownian(torch.exp(process.log_snr(steps.t)), torch.exp(process.log_snr(steps.s)), like)


def finalize_where_clean(process: Process, steps: Steps, moved: Tensor, x_0: Tensor) -> Tensor:
    """Final steps, and steps to sigma = 0 that are not final, return x_0-hat.

    Args:
        process: the forward process.
        steps: of each sample.
        moved: (B, ...) x at s as the sampler's formula gives it.
        x_0: (B, ...) x_0-hat of the step.
    """
    return finalize(steps._replace(final=steps.final | (process.sigma(steps.s) == 0)), moved, x_0)


def _euler_maruyama_step(
    denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource
) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0, z = denoiser(x, t).x_0, brownian_noise(process, steps, noise, x)
    clock = F.logsigmoid(process.log_snr(s)) - F.logsigmoid(process.log_snr(t))
    scale_t, scale_s = process.norm(t), process.norm(s)
    # grad log p(x~) = -sqrt(alpha^2 + sigma^2) eps / sigma, so in x the three coefficients share scale_s / scale_t
    move = 1 + clock / 2 - clock * (scale_t / process.sigma(t)) ** 2
    pull = clock * scale_t**2 * process.alpha(t) / process.sigma(t) ** 2
    bridge = process.bridge(s, t)
    short = clock <= _LONGEST
    c_t = torch.where(short, scale_s / scale_t * move, bridge.c_t)
    c_0 = torch.where(short, scale_s / scale_t * pull, bridge.c_0)
    std = torch.where(short, scale_s * clock.sqrt(), bridge.var.sqrt())
    moved = per_row(c_t, x) * x + per_row(c_0, x) * x_0 + per_row(std, x) * z
    return finalize_where_clean(process, steps, moved, x_0), memory


def euler_maruyama() -> Sampler:
    """x~_s = x~_t + (x~_t / 2 + grad log p(x~_t)) dtau + sqrt(dtau) z, the module's reverse-time SDE.

    A step of dtau > 2, as the one from alpha = 0 where dtau is infinite, would throw pure noise past the origin; it
    is taken by the bridge, which integrates the linear part exactly.

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
    """x_s = x_t - f + G^2 score + G z, with the f and G by which the forward chain goes from s to t.

    That chain is x_t = alpha_ts x_s + sqrt(var_max) z, so f = (alpha_ts - 1) x_t and G^2 = var_max: for a
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
