"""Samplers that run Langevin chains at fixed noise levels: predictor-corrector and annealed Langevin dynamics.

One correction at a level of noise sigma is

    x <- x + eps score(x) + sqrt(2 eps) z,   eps = 2 r^2 sigma^2.

Song's corrector sets eps = 2 (r |z| / |score|)^2 with both norms averaged over the batch, which makes samples depend on
each other; norms per sample would bias small images, whose |z| varies. |score| is |eps-hat| / sigma, so the ratio of
norms is sigma up to 1 / sqrt(dimensions). This value is used here: it depends on the noise level only.

The chain forgets its start but does not converge to its target: on N(0, S), S = alpha^2 v + sigma^2, its variance tends
to S / (1 - r^2 sigma^2 / S). This is a relative bias of at most r^2 / (1 - r^2), which finer time grids do not remove;
the order of these samplers is therefore 0. The chain is stable for every r < 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import score_of
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, where_rows
from undiffuse.errors import UsageError
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource
from undiffuse.samplers.ode import NO_SIGNAL_LOG_SNR
from undiffuse.samplers.sde import finalize_where_clean

#: The largest accepted number of corrections in one step; more are assumed to be a typing error.
MAX_CORRECTIONS = 1000


def langevin(process: Process, x: Tensor, x_0: Tensor, t: Tensor, r: float, z: Tensor) -> Tensor:
    """One correction: x + 2 r^2 sigma^2 score + 2 r sigma z.

    Args:
        process: the forward process.
        x: (B, ...) the chain's state.
        x_0: (B, ...) x_0-hat at x.
        t: (B,) times of the noise level.
        r: signal-to-noise ratio of the correction, in (0, 1).
        z: (B, ...) standard normal noise.
    """
    std = 2 * r * process.sigma(t)
    return x + per_row(std**2 / 2, x) * score_of(process, x, x_0, t) + per_row(std, x) * z


def predictor_corrector(inner: Sampler, corrections: int, r: float) -> Sampler:
    """A sampler as predictor from t to s, then Langevin corrections at s; ``samplers.pc`` creates it by name.

    Args:
        inner: the predictor.
        corrections: Langevin steps per time step, at least 1.
        r: signal-to-noise ratio of a correction, in (0, 1).
    """

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        x, memory = inner.step(denoiser, x, steps, memory, noise)
        process = denoiser.process
        active = ~steps.final & (process.sigma(steps.s) > 0)
        where = torch.where(active, steps.s, steps.t)  # inactive samples are not evaluated at sigma = 0
        denoiser.count_for(active)
        for _ in range(corrections if bool(active.any()) else 0):
            corrected = langevin(process, x, denoiser(x, where).x_0, where, r, noise.normal(x))
            x = where_rows(active, corrected, x)
        denoiser.count_for(None)
        return x, memory

    return Sampler(
        "pc",
        step,
        order=0,
        max_nfe_per_step=inner.max_nfe_per_step + corrections,
        stochastic=True,
        source="arXiv:2011.13456",
        init=inner.init,
        needs_brownian=inner.needs_brownian,
        needs_learned_variance=inner.needs_learned_variance,
    )


def annealed_langevin(corrections: int = 5, r: float = 0.3) -> Sampler:
    """Langevin chains at decreasing noise levels, then x_0-hat.

    A step from t to s starts the chain of the next level at the current point: y = x / alpha is unchanged (x itself if
    alpha = 1). The chain takes steps proportional to sigma_s^2. If alpha_t is almost 0 there is no signal, and x /
    sigma is unchanged instead. The last step returns x_0-hat, that is (x + sigma^2 score) / alpha.

    A correction multiplies excess noise by 1 - 2 r^2, so with the defaults the chain can follow levels whose
    sigma / alpha decreases by up to 0.37 per step; use more steps or more corrections rather than a larger r.

    Args:
        corrections: Langevin steps per level, at least 1.
        r: as in ``pc``; the step alpha_i = eps sigma_i^2 / sigma_L^2 of the paper is 4 r^2 sigma_i^2.
    Raises:
        UsageError: an option out of range.
    Source: Song & Ermon 2019, arXiv:1907.05600, algorithm 1; the last denoising step of Jolicoeur-Martineau et al.
        2021, arXiv:2009.05475, and Song & Ermon 2020, arXiv:2006.09011.
    """
    corrections = check_options("annealed_langevin", corrections, r)

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        process = denoiser.process
        active = ~steps.final & (process.sigma(steps.s) > 0)
        where = torch.where(active, steps.s, steps.t)
        x = where_rows(active, per_row(_level_change(process, steps), x) * x, x)
        for _ in range(corrections if bool(active.any()) else 1):
            x_0 = denoiser(x, where).x_0
            denoiser.count_for(active)  # inactive samples need one evaluation
            x = where_rows(active, langevin(process, x, x_0, where, r, noise.normal(x)), x)
        denoiser.count_for(None)
        return finalize_where_clean(process, steps, x, x_0), memory

    return Sampler(
        "annealed_langevin",
        step,
        order=0,
        max_nfe_per_step=corrections,
        stochastic=True,
        source="arXiv:1907.05600",
    )


def _level_change(process: Process, steps: Steps) -> Tensor:
    """Factor from x_t to a point of level s, ``(B,)``: alpha_s / alpha_t, or sigma_s / sigma_t without signal."""
    has_residual_signal = process.log_snr(steps.t) > NO_SIGNAL_LOG_SNR
    signal, noise = (f(steps.s) / f(steps.t) for f in (process.alpha, process.sigma))
    return torch.where(has_residual_signal, signal, noise)


def check_options(name: str, corrections: float, r: float) -> int:
    """Check the options of a Langevin sampler.

    Args:
        name: the sampler, for the message.
        corrections: Langevin steps, a whole number from 1 to ``MAX_CORRECTIONS``.
        r: signal-to-noise ratio of a correction, in (0, 1).
    Returns:
        ``corrections`` as an integer.
    Raises:
        UsageError: an option out of range.
    """
    if not (1 <= corrections <= MAX_CORRECTIONS and float(corrections).is_integer()):
        raise UsageError(
            f"{name} option corrections must be a whole number from 1 to {MAX_CORRECTIONS}, got {corrections}"
        )
    if not 0 < r < 1:
        raise UsageError(f"{name} option r must be strictly between 0 and 1, got {r}")
    return int(corrections)
