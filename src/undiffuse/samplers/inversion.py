"""The probability-flow ODE as an invertible map between data and noise.

Forwards in time it maps an image to its latent, backwards a latent to its image; the two are inverse to each other up
to the solver's tolerance. It is solved in the coordinate x~ and in the log-SNR (``samplers.probability_flow``).

Source: Song et al. 2021, arXiv:2011.13456, sec. 4.3 and appendix D.3 ("uniquely identifiable encoding").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.samplers.grids import WIDEST_LOG_SNR, Range
from undiffuse.samplers.probability_flow import flow, signal
from undiffuse.samplers.runge_kutta import Field, ODESolution, ProgressCallback, State, integrate

#: Tolerances of a step of the adaptive solver. Close to the data the density varies on a scale of 0.002, so the
#: absolute tolerance must be far below: 1e-4 changes the bits per dimension of MNIST digits by 0.006, 1e-5 by 0.001.
RTOL, ATOL = 1e-4, 1e-5


class Endpoint(NamedTuple):
    """The end point of the ODE, (B, ...) in the dtype of the input, and the NFE of each sample, ``(B,)``."""

    x: Tensor
    nfe: Tensor


def ode_range(denoiser: Denoiser, noisy: float | None = None, clean: float | None = None) -> Range:
    """(noisiest, cleanest) log-SNR between which the ODE is solved.

    By default the range of process and training, within [-2 log 80, 2 log 500]; given limits only have to be within the
    range of process and training.

    Args:
        denoiser: its process and log-SNR range limit the ODE.
        noisy: smallest log-SNR; None for the default.
        clean: largest log-SNR; None for the default.
    Raises:
        UsageError: a limit out of range, or an empty range between the two.
    """
    ends = denoiser.process.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    low, high = max(ends[0], denoiser.log_snr_range[0]), min(ends[1], denoiser.log_snr_range[1])
    for limit in (noisy, clean):
        if limit is not None and not low - 1e-9 <= limit <= high + 1e-9:
            raise UsageError(f"log-SNR {limit:g} is out of range: process and training span {low:.4g} to {high:.4g}")
    start = max(low, WIDEST_LOG_SNR[0]) if noisy is None else noisy
    end = min(high, WIDEST_LOG_SNR[1]) if clean is None else clean
    if not start < end:
        raise UsageError(f"the ODE needs a noisy log-SNR below the clean one, got {start:.4g} and {end:.4g}")
    return start, end


def scale_at(process: Process, log_snr: Tensor) -> Tensor:
    """The factor sqrt(alpha^2 + sigma^2) from x~ to x_t.

    Args:
        process: the forward process.
        log_snr: (B,) log-SNRs.
    """
    return process.norm(process.time_of_log_snr(log_snr))


def start_std(process: Process, log_snr: Tensor) -> Tensor:
    """Standard deviation in x of the initial noise of sampling.

    Args:
        process: the forward process.
        log_snr: (B,) log-SNRs at the start of sampling.
    Returns:
        (B,) float64.
    """
    times = process.time_of_log_snr(log_snr).tolist()
    return torch.tensor([process.start_std(t) for t in times], dtype=torch.float64, device=log_snr.device)


def solve(
    rhs: Field,
    start: Tensor,
    end: Tensor,
    state: State,
    num_steps: int | None,
    rtol: float,
    atol: float,
    on_progress: ProgressCallback | None = None,
) -> ODESolution:
    """Solve an ODE in the log-SNR, adaptively or with equal steps of Heun's method (two evaluations each).

    Args:
        rhs: (log-SNR (B,), state) -> derivative of the state.
        start: (B,) log-SNRs, finite.
        end: (B,) log-SNRs, on either side of ``start``.
        state: tensors (B, ...).
        num_steps: steps of Heun's method; None for the adaptive solver.
        rtol, atol: relative and absolute tolerance of a step of the adaptive solver.
        on_progress: called with the completed fraction of the log-SNR range, that of the slowest sample.
    Raises:
        UsageError: fewer than one step.
    """
    if num_steps is None:
        return integrate(rhs, start, end, state, rtol=rtol, atol=atol, on_progress=on_progress)
    if num_steps < 1:
        raise UsageError(f"the ODE needs at least 1 step, got {num_steps}")
    step = (end - start) / num_steps
    for number in range(num_steps):
        before, after = start + number * step, start + (number + 1) * step
        slope = rhs(before, state)
        predicted = tuple(per_row(step, s) * s + x for x, s in zip(state, slope, strict=True))
        end_slope = rhs(after, predicted)
        state = tuple(x + per_row(step / 2, x) * (a + b) for x, a, b in zip(state, slope, end_slope, strict=True))
        if on_progress is not None:
            on_progress((number + 1) / num_steps)
    return ODESolution(state, torch.full_like(start, 2 * num_steps).long(), step.abs())


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    cond: Condition | None = None,
    log_snr_range: Range | None = None,
    num_steps: int | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    on_progress: ProgressCallback | None = None,
) -> Endpoint:
    """Invert the sampler: the latent of each image, by solving the ODE forwards in time.

    Args:
        denoiser: without clipping, which is not invertible.
        x_0: (B, ...) float data.
        cond: (B, ...) fields that the samples are conditioned on; None is unconditional.
        log_snr_range: (noisy, clean) ends; by default those of ``ode_range``.
        num_steps: steps of Heun's method; None for the adaptive solver.
        rtol, atol: relative and absolute tolerance of a step of the adaptive solver.
        on_progress: called with the completed fraction of the log-SNR range, that of the slowest sample.
    Returns:
        Latents shaped like ``x_0``, approximately N(0, I) for data from the model's distribution, and the NFE of each
        sample. Latents times ``start_std`` are an ``x_start`` for ``samplers.base.sample``.
    Example:
        >>> from undiffuse.core.gaussian import GaussianMixture
        >>> from undiffuse.core.processes import FlowProcess
        >>> data = GaussianMixture.ring(4)
        >>> denoiser, x_0 = data.denoiser(FlowProcess()), data.sample(2, torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(generate(denoiser, invert(denoiser, x_0).x).x, x_0, atol=1e-2))
        True
    """
    low, high = _ends(denoiser, x_0, log_snr_range)
    state = per_row(signal(high), x_0.double()) * x_0.double()
    x, nfe = _solve_flow(denoiser, high, low, state, x_0.dtype, cond, num_steps, rtol, atol, on_progress)
    scale = scale_at(denoiser.process, low)
    return Endpoint((per_row(scale / start_std(denoiser.process, low), x) * x).to(x_0.dtype), nfe)


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    latent: Tensor,
    *,
    cond: Condition | None = None,
    log_snr_range: Range | None = None,
    num_steps: int | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    on_progress: ProgressCallback | None = None,
) -> Endpoint:
    """The image of each latent, by solving the ODE backwards in time: the inverse of ``invert``.

    Args:
        denoiser: without clipping, as for ``invert``.
        latent: (B, ...) in units of the initial noise of sampling.
        cond: (B, ...) fields that the samples are conditioned on; None is unconditional.
        log_snr_range: (noisy, clean) ends; by default those of ``ode_range``.
        num_steps: steps of Heun's method; None for the adaptive solver.
        rtol, atol: relative and absolute tolerance of a step of the adaptive solver.
        on_progress: called with the completed fraction of the log-SNR range, that of the slowest sample.
    Returns:
        Samples shaped like ``latent``, and the NFE of each.
    """
    low, high = _ends(denoiser, latent, log_snr_range)
    scale = scale_at(denoiser.process, low)
    state = per_row(start_std(denoiser.process, low) / scale, latent.double()) * latent.double()
    x, nfe = _solve_flow(denoiser, low, high, state, latent.dtype, cond, num_steps, rtol, atol, on_progress)
    return Endpoint((x / per_row(signal(high), x)).to(latent.dtype), nfe)


def _ends(denoiser: Denoiser, like: Tensor, log_snr_range: Range | None) -> tuple[Tensor, Tensor]:
    low, high = ode_range(denoiser, *(log_snr_range or ()))
    rows = torch.ones(len(like), dtype=torch.float64, device=like.device)
    return low * rows, high * rows


def _solve_flow(
    denoiser: Denoiser,
    start: Tensor,
    end: Tensor,
    x: Tensor,
    dtype: torch.dtype,
    cond: Condition | None,
    num_steps: int | None,
    rtol: float,
    atol: float,
    on_progress: ProgressCallback | None,
) -> tuple[Tensor, Tensor]:
    def rhs(log_snr: Tensor, state: State) -> State:
        return (flow(denoiser, state[0], log_snr, dtype, cond),)

    solved = solve(rhs, start, end, (x,), num_steps, rtol, atol, on_progress)
    return solved.state[0], solved.nfe
