"""Deterministic samplers: solvers of the probability-flow ODE in the log-SNR instead of t.

With y = x / alpha and the noise-to-signal ratio r = sigma / alpha = exp(-lambda / 2) the ODE is, for every process,

    dy / dr = eps-hat(x, t) = (x - alpha x_0-hat) / sigma,

so each method is implemented once. At alpha(t) = 0, where r is infinite, a step uses its DDIM form, which is finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, where_rows
from undiffuse.samplers.ancestral import ddim, finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource


def euler() -> Sampler:
    """Euler's method in r: x_s = alpha_s x_0-hat + sigma_s eps-hat, the same map as DDIM with eta = 0.

    Source: Karras et al. 2022, arXiv:2206.00364, sec. 3; Song et al. 2021, arXiv:2010.02502, eq. 13.
    """
    return Sampler("euler", ddim(0.0).step, order=1, max_nfe_per_step=1, stochastic=False, source="arXiv:2206.00364")


#: Below this log-SNR (r > 1000) x contains no usable signal: a small error of eps-hat times r exceeds it, so Heun's
#: correction is skipped.
NO_SIGNAL_LOG_SNR = -2 * math.log(1000)


def _ratio(process: Process, t: Tensor) -> Tensor:
    return torch.exp(-process.log_snr(t) / 2)


def heun_step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
    """An Euler step in r, then the mean of the slopes at both its ends; see ``heun``.

    Args:
        denoiser: evaluated at t, and at s for samples that are corrected.
        x: (B, ...) at times ``steps.t``.
        steps: the step of each sample.
        memory: returned unchanged; a one-step method needs none.
        noise: unused.
    """
    process, (t, s) = denoiser.process, steps[:2]
    x_0 = denoiser(x, t).x_0
    eps = eps_of(process, x, x_0, t)
    euler_x = per_row(process.alpha(s), x) * x_0 + per_row(process.sigma(s), x) * eps
    corrected = ~steps.final & (process.sigma(s) > 0) & (process.log_snr(t) > NO_SIGNAL_LOG_SNR)
    if bool(corrected.any()):  # saves an evaluation if no sample needs it; the results are the same
        where = torch.where(corrected, s, t)  # uncorrected samples are not evaluated at sigma = 0
        denoiser.count_for(corrected)
        eps_s = eps_of(process, euler_x, denoiser(euler_x, where).x_0, where)
        denoiser.count_for(None)
        half = process.alpha(s) * (_ratio(process, s) - _ratio(process, t)) / 2
        half = torch.where(corrected, half, torch.zeros_like(half))
        shift = where_rows(corrected, eps_s - eps, torch.zeros_like(x))
        euler_x = euler_x + per_row(half, x) * shift
    return finalize(steps, euler_x, x_0), memory


def heun() -> Sampler:
    """Heun's method in r (an Euler step, then the mean of both slopes); the last step is Euler's.

    NFE 2 K - 1 for K steps.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """
    return Sampler("heun", heun_step, order=2, max_nfe_per_step=2, stochastic=False, source="arXiv:2206.00364")


def no_previous_x_0(x: Tensor) -> Memory:
    """The initial memory of ``extrapolated_x_0``.

    Args:
        x: (B, ...) new samples.
    """
    # a log-SNR of -inf means "no previous step": its weight in the extrapolation is then zero
    return torch.zeros_like(x), torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)


def extrapolated_x_0(process: Process, x_0: Tensor, t: Tensor, s: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """x_0-hat at the middle of the step by linear extrapolation in the log-SNR, and the new memory.

    Args:
        process: the forward process.
        x_0: (B, ...) x_0-hat at ``t``.
        t: (B,) start times of the step.
        s: (B,) end times of the step.
        memory: the previous x_0-hat (B, ...) and its log-SNR (B,), -inf for none.
    """
    previous, log_snr_previous = memory
    log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
    slope = (log_snr_s - log_snr_t) / (2 * (log_snr_t - log_snr_previous))
    slope = torch.where(torch.isfinite(slope), slope, torch.zeros_like(slope))
    return x_0 + per_row(slope, x_0) * (x_0 - previous), (x_0, log_snr_t)


def _dpmpp_2m_step(
    denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource
) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0 = denoiser(x, t).x_0
    middle_x_0, memory = extrapolated_x_0(process, x_0, t, s, memory)
    log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
    gain = -process.alpha(s) * torch.expm1((log_snr_t - log_snr_s) / 2)
    moved = per_row(process.sigma(s) / process.sigma(t), x) * x + per_row(gain, x) * middle_x_0
    return finalize(steps, moved, x_0), memory


def dpmpp_2m() -> Sampler:
    """DPM-Solver++(2M): linear extrapolation of x_0-hat in the log-SNR; the first and last steps are DDIM steps.

    Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, algorithm 2.
    """
    return Sampler(
        "dpmpp_2m",
        _dpmpp_2m_step,
        order=2,
        max_nfe_per_step=1,
        stochastic=False,
        source="arXiv:2211.01095",
        init=no_previous_x_0,
    )
