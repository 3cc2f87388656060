"""Samplers that run Langevin chains at fixed noise levels: predictor-corrector and annealed Langevin dynamics.

One correction at a level of noise sigma is

    x <- x + eps score(x) + sqrt(2 eps) z,   eps = 2 r^2 sigma^2.

Song's corrector sets eps = 2 (r |z| / |score|)^2 with both norms averaged over the batch, which ties samples
together; taken per sample the norms would bias small images, whose |z| varies. |score| is |eps-hat| / sigma,
so the ratio of norms is sigma up to 1 / sqrt(dimensions), and that is what stands here: a number of the level alone.

The chain forgets where it started but does not settle on its target: on N(0, S), S = alpha^2 v + sigma^2, its variance
tends to S / (1 - r^2 sigma^2 / S). That is a bias of at most r^2 / (1 - r^2), relatively, which shorter steps of the
time grid do not remove: so these samplers state order 0. The chain is stable for every r < 1.
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

#: More corrections in one step are a slip of the keyboard.
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
    """A sampler as predictor from t to s, then Langevin corrections at s; ``samplers.pc`` makes it by name.

    Args:
        inner: the predictor.
        corrections: Langevin steps per time step, at least 1.
        r: signal-to-noise ratio of a correction, in (0, 1).
    """

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        x, memory = inner.step(denoiser, x, steps, memory, noise)
        process = denoiser.process
        active = ~steps.final & (process.sigma(steps.s) > 0)
        where = torch.where(active, steps.s, steps.t)  # samples at rest stay away from sigma = 0
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
    """Langevin chains at falling noise levels, then x_0-hat.

    A step from t to s takes x as it is for a point of the next level, y = x / alpha unchanged (x itself where
    alpha = 1), and corrects it there with steps proportional to sigma_s^2. Where alpha_t is 0 or nearly so there is no
    signal to keep, and x / sigma stays. The last step returns x_0-hat, that is x + sigma^2 score over alpha.

    A correction multiplies surplus noise by 1 - 2 r^2, so with the defaults the chain follows levels
    whose sigma / alpha fall by up to 0.37 a step; use more steps, or more corrections, rather than a larger r.

    Args:
        corrections: Langevin steps per level, at least 1.
        r: as in ``pc``; the step alpha_i = eps sigma_i^2 / sigma_L^2 of the paper is 4 r^2 sigma_i^2.
    Raises:
        UsageError: an option out of range.
    Source: Song & Ermon 2019, arXiv:1907.05600, algorithm 1; the last denoising step of Jolicoeur-Martineau et al.
        2021, arXiv:2009.05475, and Song & Ermon 2020, arXiv:2006.09011.
    """
    corrections = checked("annealed_langevin", corrections, r)

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        process = denoiser.process
        active = ~steps.final & (process.sigma(steps.s) > 0)
        where = torch.where(active, steps.s, steps.t)
        x = where_rows(active, per_row(_relabel(process, steps), x) * x, x)
        for _ in range(corrections if bool(active.any()) else 1):
            x_0 = denoiser(x, where).x_0
            denoiser.count_for(active)  # samples at rest need one evaluation
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


def _relabel(process: Process, steps: Steps) -> Tensor:
    """Factor that makes x_t a point of level s, ``(B,)``: alpha_s / alpha_t, or sigma_s / sigma_t without signal."""
    has_residual_signal = process.log_snr(steps.t) > NO_SIGNAL_LOG_SNR
    signal, noise = (f(steps.s) / f(steps.t) for f in (process.alpha, process.sigma))
    return torch.where(has_residual_signal, signal, noise)


def checked(name: str, corrections: float, r: float) -> int:
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
        raise UsageError(f"{name} option r must lie strictly between 0 and 1, got {r}")
    return int(corrections)
