"""Exact log-likelihood of a diffusion model by its probability-flow ODE.

Along a trajectory of the ODE in x~ (``samplers.probability_flow``), parameterized by the log-SNR, the log-density
changes by minus the divergence of the vector field, so from the clean end c to the noisy end n

    log p_c(x~_c) = log p_n(x~_n) + int_c^n div(d x~ / d lambda) d lambda,

with p_n the Gaussian prior of sampling. In the units of the data, y = x_t / alpha, a change of variables by
a(c) = sqrt(sigmoid(c)) gives

    log p(y) = log p_c(a y) + D log a,        p the density of x_0 + (sigma / alpha) eps at the clean end.

The divergence is exact (one vector-Jacobian product per dimension) or Hutchinson's estimate z^T J z with probes z that
are constant along a sample's trajectory, which is unbiased for the integral.

Source: Song et al. 2021, arXiv:2011.13456, sec. 4.3 and appendix D.2; Chen et al. 2018, arXiv:1806.07366 (instantaneous
change of variables); Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.rows import per_row, sum_over_features
from undiffuse.errors import UsageError
from undiffuse.samplers.grids import Range
from undiffuse.samplers.inversion import ATOL, RTOL, ode_range, scale_at, solve, start_std
from undiffuse.samplers.noise import NoiseSource, SeededNoise
from undiffuse.samplers.probability_flow import flow, signal
from undiffuse.samplers.runge_kutta import ProgressCallback, State

#: Draw numbers within a sample's noise: dequantisation, and the first probe.
_DEQUANTISATION, _FIRST_PROBE = 2**20, 2**20 + 1


@dataclass(frozen=True)
class Likelihood:
    """log p of each sample and its parts; log-densities are float64 nats, ``(B,)``.

    Attributes:
        nats: log p(x_0) at the clean end, in the units of x_0: ``prior + delta``.
        prior: log-density of the latent under the Gaussian prior of sampling, in the units of x_t at the noisy end.
        delta: the change of log-density between the two ends, including changes of units.
        num_dims: D, elements of a sample.
        log_snr_range: (noisy, clean) ends; the density is that of the data at the clean end, with noise of standard
            deviation exp(-clean / 2) in the units of x_0.
        time: t of the clean end.
        latent: (B, ...) the end of the trajectory, in units of the prior's standard deviation.
        nfe: NFE of each sample, ``(B,)``.
        probe_variance: variance of the single-probe estimates of ``nats``; ``None`` with fewer than two probes.
    """

    nats: Tensor
    prior: Tensor
    delta: Tensor
    num_dims: int
    log_snr_range: Range
    time: float
    latent: Tensor
    nfe: Tensor
    probe_variance: Tensor | None

    def bits_per_dim(self, num_levels: int = 256) -> Tensor:
        """Negative log2-likelihood per dimension of data quantised in [-1, 1]; see ``bits_per_dim``."""
        return bits_per_dim(self.nats, self.num_dims, num_levels)


def bits_per_dim(nats: Tensor, num_dims: int, num_levels: int = 256) -> Tensor:
    """Convert log-densities of data on evenly spaced levels to bits per dimension.

    -nats / (D log 2) + log2((num_levels - 1) / 2); for 256 levels the last term is log2(127.5) = 6.994.

    Args:
        nats: (B,) log-densities of data in [-1, 1].
        num_dims: D, elements of a sample.
        num_levels: number of levels of the data, with spacing 2 / (num_levels - 1).
    """
    return -nats / (num_dims * math.log(2)) + math.log2((num_levels - 1) / 2)


def dequantise(x_0: Tensor, noise: NoiseSource, num_levels: int = 256) -> Tensor:
    """Uniform dequantisation of data on levels in [-1, 1]: x_0 + (u - 1/2) 2 / (num_levels - 1).

    The mean of -log p over u is an upper bound on -log of the model's probability of the level.

    Args:
        x_0: (B, ...) data on levels in [-1, 1].
        noise: source of u, per sample.
        num_levels: number of levels of the data.
    Source: Uria et al. 2013, arXiv:1306.0186; Theis et al. 2016, arXiv:1511.01844, sec. 3.1.
    """
    normal = noise.numbered(x_0.double(), _DEQUANTISATION)
    offset: Tensor = (torch.special.ndtr(normal) - 0.5) * 2 / (num_levels - 1)
    return (x_0.double() + offset).to(x_0.dtype)


def log_likelihood(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    probes: int | Literal["exact"] = 1,
    distribution: Literal["rademacher", "gaussian"] = "rademacher",
    noise: NoiseSource | None = None,
    cond: Condition | None = None,
    log_snr_range: tuple[float | None, float | None] = (None, None),
    num_steps: int | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    on_progress: ProgressCallback | None = None,
) -> Likelihood:
    """log p(x_0) of the model defined by the probability-flow ODE.

    Args:
        denoiser: without clipping; evaluated in the dtype of ``x_0``, everything else is float64.
        x_0: (B, ...) data; quantised images must be passed through ``dequantise`` first.
        probes: number of probes of Hutchinson's estimate, or ``exact``, one vector-Jacobian product per dimension.
        distribution: distribution of the probes; Rademacher has the smaller variance (0 for a diagonal Jacobian).
        noise: source of the probes, per sample; by default seeds 0, 1, ...
        cond: (B, ...) fields that the samples are conditioned on; None is unconditional.
        log_snr_range: (noisy, clean) ends, ``None`` for those of ``inversion.ode_range``.
        num_steps: steps of Heun's method; ``None`` for the adaptive solver.
        rtol, atol: relative and absolute tolerance of a step of the adaptive solver, on x~ and on the log-density per
            dimension.
        on_progress: called with the completed fraction of the log-SNR range, that of the slowest sample.
    Raises:
        UsageError: an unknown distribution, no probe, or ends out of range.
    Source: Song et al. 2021, arXiv:2011.13456, sec. 4.3 and appendix D.2.
    Example:
        >>> from undiffuse.core.gaussian import GaussianMixture
        >>> from undiffuse.core.processes import FlowProcess
        >>> data = GaussianMixture.ring(4)
        >>> x = data.sample(2, torch.Generator().manual_seed(0))
        >>> log_likelihood(data.denoiser(FlowProcess()), x, probes="exact").nats.shape
        torch.Size([2])
    """
    with torch.inference_mode(False), torch.no_grad():  # gradients are enabled where they are needed
        x_0, cond = x_0.detach().clone(), cond.map(torch.clone) if cond is not None else None
        low, high = ode_range(denoiser, *log_snr_range)
        rows = torch.ones(len(x_0), dtype=torch.float64, device=x_0.device)
        x, num_dims = per_row(signal(high * rows), x_0.double()) * x_0.double(), x_0.shape[1:].numel()
        vectors = _probes(x, probes, distribution, noise if noise is not None else SeededNoise(range(len(x_0))))

        def rhs(log_snr: Tensor, state: State) -> State:
            slope, divergence = _flow_and_divergence(denoiser, state[0], log_snr, x_0.dtype, cond, vectors)
            divergence = divergence.sum(1, keepdim=True) if probes == "exact" else divergence
            return slope, divergence / num_dims

        count = 1 if probes == "exact" else len(vectors)
        start = (x, torch.zeros(len(x), count, dtype=torch.float64, device=x.device))
        solved = solve(rhs, high * rows, low * rows, start, num_steps, rtol, atol, on_progress)
        x, change = solved.state[0], solved.state[1] * num_dims
        return _likelihood(denoiser, x, change, (low, high), solved.nfe)


def _likelihood(denoiser: Denoiser, x: Tensor, change: Tensor, ends: Range, nfe: Tensor) -> Likelihood:
    """Combine the prior's log-density, its change along the ODE, and the changes of units between x~, x_t and x_0."""
    low, high = (torch.full((len(x),), end, dtype=torch.float64, device=x.device) for end in ends)
    num_dims = x.shape[1:].numel()
    scale = scale_at(denoiser.process, low)
    std = start_std(denoiser.process, low)
    latent = per_row(scale / std, x) * x
    prior = -0.5 * sum_over_features(latent**2) - num_dims * (torch.log(std) + 0.5 * math.log(2 * math.pi))
    units = num_dims * (torch.log(scale) + torch.log(signal(high)))
    delta = change.mean(1) + units
    time = float(denoiser.process.time_of_log_snr(torch.tensor([ends[1]], dtype=torch.float64)))
    variance = change.var(1) if change.shape[1] > 1 else None
    return Likelihood(prior + delta, prior, delta, num_dims, ends, time, latent, nfe, variance)


def _probes(x: Tensor, probes: int | str, distribution: str, noise: NoiseSource) -> list[Tensor]:
    """Vectors shaped like ``x``: all unit vectors, or independent random vectors for each sample."""
    if probes == "exact":
        num_dims = x.shape[1:].numel()
        units = torch.eye(num_dims, dtype=x.dtype, device=x.device)
        return [unit.reshape(1, *x.shape[1:]).expand_as(x) for unit in units]
    if not isinstance(probes, int) or probes < 1:
        raise UsageError(f"probes must be 'exact' or a number of at least 1, got {probes!r}")
    if distribution not in ("rademacher", "gaussian"):
        raise UsageError(f"the probes' distribution must be 'rademacher' or 'gaussian', got {distribution!r}")
    numbers = range(_FIRST_PROBE, _FIRST_PROBE + probes)
    normals = [noise.numbered(x, number) for number in numbers]
    if distribution == "gaussian":
        return normals
    return [torch.where(normal < 0, -torch.ones_like(normal), torch.ones_like(normal)) for normal in normals]


def _flow_and_divergence(
    denoiser: Denoiser, x: Tensor, log_snr: Tensor, dtype: torch.dtype, cond: Condition | None, probes: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """d x~ / d lambda and z^T J z for each probe z, (B, P): one evaluation, one vector-Jacobian product per probe."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        slope = flow(denoiser, leaf, log_snr, dtype, cond)
        products = [
            torch.autograd.grad(slope, leaf, probe, retain_graph=number < len(probes))[0]
            for number, probe in enumerate(probes, 1)
        ]
    pairs = zip(probes, products, strict=True)
    return slope.detach(), torch.stack([sum_over_features(probe * product) for probe, product in pairs], 1)
