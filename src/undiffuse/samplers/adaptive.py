"""The probability-flow ODE solved to a tolerance, with step sizes and an NFE per sample.

It is solved in the coordinate x~ and in the log-SNR (``samplers.probability_flow``). The time grid only sets the points
at which x is available and may be coarse. Two steps are enough if all times have some signal: the solver goes from the
first time to the second, and the final step returns x_0-hat.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, where_rows
from undiffuse.errors import UsageError
from undiffuse.samplers.ancestral import finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource
from undiffuse.samplers.probability_flow import flow, slope
from undiffuse.samplers.runge_kutta import State, integrate

#: The largest NFE of a sample in one step of the grid.
MAX_NFE = 1000


def rk45(rtol: float = 1e-4) -> Sampler:
    """The Dormand-Prince pair in (lambda, x~) with a step size per sample, which carries over between grid steps.

    A step of the grid costs one evaluation plus six for each attempted step of the solver; a step is accepted if its
    error is below ``rtol`` (1 + |x~|). The error of the sample decreases with ``rtol`` for any grid; order 5 is
    observed only if the grid is finer than the tolerance requires.

    Args:
        rtol: relative and absolute tolerance of a solver step, from 1e-10 to 0.1.
    Raises:
        UsageError: a tolerance out of range.
    Note: a sample that needs more than ``MAX_NFE`` in one step, or whose model is not smooth, becomes NaN; the other
        samples continue.
    Source: Song et al. 2021, arXiv:2011.13456, sec. 4.3 and D.4 (an adaptive solver of order 5 for this ODE, in t).
    """
    if not 1e-10 <= rtol <= 0.1:
        raise UsageError(f"rk45 needs a tolerance rtol from 1e-10 to 0.1, got {rtol}")

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        return _step(denoiser, x, steps, memory[0], rtol)

    return Sampler(
        "rk45",
        step,
        order=5,
        max_nfe_per_step=MAX_NFE,
        adaptive=True,
        stochastic=False,
        source="arXiv:2011.13456",
        init=lambda x: (torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device),),
    )


def _step(denoiser: Denoiser, x: Tensor, steps: Steps, first: Tensor, rtol: float) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0 = denoiser(x, t).x_0
    log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
    # with almost no signal, a DDIM step is exact up to a tenth of the tolerance: its error is SNR / 2
    start = torch.minimum(log_snr_t.clamp(min=math.log(rtol / 5)), log_snr_s)
    moves = ~steps.final & (process.sigma(s) > 0) & torch.isfinite(x_0).flatten(1).all(1)  # failed samples do not move
    jumps = moves & (start > log_snr_t)
    start, end = torch.where(moves, start, 0), torch.where(moves, log_snr_s, 0)
    t_start = torch.where(jumps, process.time_of_log_snr(start), t)
    tilde, slopes = _start(denoiser, x, x_0, t, t_start, start, jumps)

    def rhs(log_snr: Tensor, state: State) -> State:
        return (flow(denoiser, state[0], log_snr, x.dtype),)

    solved = integrate(
        rhs,
        start,
        end,
        (tilde,),
        rtol=rtol,
        atol=rtol,
        max_evaluations=MAX_NFE - 2,  # one more at t, and one at the end of an initial DDIM step
        first_step=first,
        first_slope=(slopes,),
        count_for=denoiser.count_for,
        nan_if_stuck=True,
    )
    denoiser.count_for(None)
    moved = per_row(process.norm(s), x) * solved.state[0]
    return finalize(steps, where_rows(moves, moved, x_0), x_0), (solved.step,)


def _start(
    denoiser: Denoiser, x: Tensor, x_0: Tensor, t: Tensor, t_start: Tensor, start: Tensor, jumps: Tensor
) -> tuple[Tensor, Tensor]:
    """x~ and its slope at the solver's start; samples in ``jumps`` get there by a DDIM step."""
    process = denoiser.process
    if bool(jumps.any()):  # costs one more evaluation; does not change the other samples
        x = where_rows(jumps, _ddim(process, x, x_0, t, t_start), x)
        denoiser.count_for(jumps)
        x_0 = denoiser(x, t_start).x_0
    tilde = x / per_row(process.norm(t_start), x)
    return tilde, slope(start, tilde, x_0)


def _ddim(process: Process, x: Tensor, x_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """alpha_s x_0-hat + sigma_s eps-hat."""
    ratio = process.sigma(s) / process.sigma(t)
    return per_row(ratio, x) * x + per_row(process.alpha(s) - ratio * process.alpha(t), x) * x_0
