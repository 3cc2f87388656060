"""The exact variational bound on -log p(x_0) of a diffusion model, on a given time grid.

For ascending times t_1 < ... < t_K,

    -log p(x_0) <= L_T + sum_i L_i + L_0
    L_T = KL(q(x_{t_K} | x_0) || N(0, prior_std^2))
    L_i = KL(q(x_{t_{i-1}} | x_{t_i}, x_0) || N(c_t x + c_0 x_0-hat, v))       i = 2 ... K
    L_0 = -log P(x_0 | x_{t_1}),   a Gaussian around x_0-hat, discretised to the data's levels

and every number is reported with the grid, the variance v and the decoder that it was computed with.

Source: Ho et al. 2020, arXiv:2006.11239, eqs. 5 and 13; Kingma et al. 2021, arXiv:2107.00630, sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.process import Bridge, Process
from undiffuse.core.rows import per_row, sum_over_features
from undiffuse.core.variance import mixed_log_variance
from undiffuse.errors import UsageError

#: (like (B, ...), number of the draw) -> standard normal noise shaped like ``like``.
Normal = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Bound:
    """The terms of the bound in nats, per sample, and how they were computed.

    Attributes:
        prior: L_T, ``(B,)``.
        terms: L_2 ... L_K in order of time, ``(B, K - 1)``.
        decoder: L_0, ``(B,)``.
        num_dims: elements of a sample.
        times: the grid, ascending.
        variance: of the reverse step.
        decoder_std: standard deviation of the discretised Gaussian; ``None`` if it is learned.
    """

    prior: Tensor
    terms: Tensor
    decoder: Tensor
    num_dims: int
    times: Tensor
    variance: str
    decoder_std: float | None

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x_0), ``(B,)`` nats."""
        return self.prior + self.terms.sum(1) + self.decoder

    def bits_per_dim(self, nats: Tensor) -> Tensor:
        """Nats per sample to bits per dimension.

        Args:
            nats: (B,).
        """
        return bits_per_dim(nats, self.num_dims)


def bits_per_dim(nats: Tensor, num_dims: int) -> Tensor:
    """Nats per sample to bits per dimension.

    Args:
        nats: (B,).
        num_dims: elements of a sample.
    """
    return nats / (num_dims * math.log(2))


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    normal: Normal,
    *,
    variance: str | float = "beta",
    decoder: str | float = "snr",
    num_levels: int | None = 256,
    cond: Condition | None = None,
) -> Bound:
    """The bound, with one draw of x_t per term.

    Args:
        denoiser: with a ``variance_mix`` in its output where ``variance`` is ``learned``.
        x_0: (B, ...) data in [-1, 1].
        times: (K,) ascending, sigma(t_1) > 0; ``process.knots[1:]`` for a DDPM.
        normal: the noise of the terms.
        variance: of the reverse step: ``beta``, ``beta_tilde``, ``learned``, or a number in [0, 1], the weight of
            log beta in a mix of the two logarithms.
        decoder: standard deviation of L_0: a number; ``snr``, sigma / alpha at t_1; or ``reverse``, the reverse step's
            ``variance``, with the second knot's beta-tilde where t_1's vanishes (as DDPM's code clips it).
        num_levels: evenly spaced values of the data in [-1, 1]; ``None`` for continuous data: the decoder is a
            density, and the bound may be negative.
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    Raises:
        UsageError: a grid that does not ascend or starts where sigma = 0, or an unknown variance.
    Note:
        NFE K per sample.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 5.
    Example:
        >>> from undiffuse.core.gaussian import GaussianMixture
        >>> from undiffuse.core.processes import DiscreteVP
        >>> denoiser = GaussianMixture.ring(8).denoiser(DiscreteVP.linear(50))
        >>> noise = lambda like, number: torch.randn(like.shape, generator=torch.Generator().manual_seed(number))
        >>> bound = variational_bound(denoiser, torch.zeros(4, 2), denoiser.process.knots[1:], noise)
        >>> bound.terms.shape, bound.total.shape
        (torch.Size([4, 49]), torch.Size([4]))
    """
    check_decoder(decoder)
    times = check_grid(denoiser, times).to(x_0.device)
    total = len(x_0)
    terms = []
    for number in range(1, len(times)):
        s, t = times[number - 1].expand(total), times[number].expand(total)
        x_t = denoiser.process.diffuse(x_0, normal(x_0, number), t)
        terms.append(term(denoiser.process.bridge(s, t), x_0, denoiser(x_t, t, cond), variance))
    summed = torch.stack(terms, 1) if terms else x_0.new_zeros(total, 0).double()
    return assembled_bound(summed, denoiser, x_0, times, normal, variance, decoder, num_levels, cond)


def assembled_bound(
    terms: Tensor,
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    normal: Normal,
    variance: str | float,
    decoder: str | float,
    num_levels: int | None,
    cond: Condition | None,
) -> Bound:
    """The bound from its diffusion terms, with its prior and decoder terms added.

    Args:
        terms: (B, ...) nats.
        denoiser: of the decoder term.
        x_0: (B, ...) data in [-1, 1].
        times: (K,) ascending.
        normal: noise; draw 0 is for the decoder.
        variance: of the reverse step, as in ``variational_bound``.
        decoder: standard deviation of L_0, as in ``variational_bound``.
        num_levels: of the data; ``None`` for continuous data.
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    """
    decoded, decoder_std = decoder_term(denoiser, x_0, times, normal, variance, decoder, num_levels, cond)
    return Bound(
        prior=prior_term(denoiser, x_0, times[-1]),
        terms=terms,
        decoder=decoded,
        num_dims=x_0.shape[1:].numel(),
        times=times.cpu(),
        variance=str(variance),
        decoder_std=decoder_std,
    )


def check_decoder(decoder: str | float) -> None:
    """Check that the standard deviation of L_0 is a known name or a positive number."""
    if decoder not in ("snr", "reverse") and (isinstance(decoder, str) or not decoder > 0):
        raise UsageError(f"decoder must be 'snr', 'reverse' or a positive number, got {decoder!r}")


def check_grid(denoiser: Denoiser, times: Tensor) -> Tensor:
    """Check that the times ascend and start where sigma > 0.

    Args:
        denoiser: for its process.
        times: (K,).
    Returns:
        The times in float64.
    """
    times = times.double()
    if times.ndim != 1 or len(times) < 1 or not bool((times[1:] > times[:-1]).all()):
        raise UsageError("the bound needs times that ascend strictly, such as process.knots[1:]")
    if not float(denoiser.process.sigma(times[:1])) > 0:
        raise UsageError("the bound's first time must have sigma > 0: leave out t = 0")
    return times


def prior_term(denoiser: Denoiser, x_0: Tensor, t: Tensor, std: float | None = None) -> Tensor:
    """L_T: KL of N(alpha x_0, sigma^2) from the prior N(0, std^2), ``(B,)`` nats.

    Args:
        denoiser: for its process.
        x_0: (B, ...) data.
        t: () the last time.
        std: of the prior; None for the process's ``prior_std``.
    """
    process, ones = denoiser.process, torch.ones(1, dtype=torch.float64, device=x_0.device)
    alpha, sigma = process.alpha(t * ones), process.sigma(t * ones)
    std = process.prior_std if std is None else std
    ratio = (sigma / std) ** 2
    per_dim = 0.5 * (ratio - 1 - torch.log(ratio)) + 0.5 * (alpha / std * x_0.double().flatten(1)) ** 2
    return per_dim.sum(1)


def term(bridge: Bridge, x_0: Tensor, denoised: Denoised, variance: str | float) -> Tensor:
    """L_i: KL(N(., beta-tilde) || N(., v)) with means c_0 (x_0 - x_0-hat) apart, ``(B,)`` nats.

    Args:
        bridge: of the step, coefficients (B,).
        x_0: (B, ...) data.
        denoised: x_0-hat at the step's later time, and the variance mix if it is learned.
        variance: v of the reverse step, as in ``variational_bound``.
    """
    error2 = per_row(bridge.c_0**2, x_0.double()) * (x_0.double() - denoised.x_0.double()) ** 2
    log_beta_tilde = per_row(torch.log(bridge.var), error2)
    log_v = log_variance(log_beta_tilde, per_row(torch.log(bridge.var_max), error2), denoised, variance)
    log_r = log_beta_tilde - log_v
    # exp(log_r) - 1 - log_r vanishes where v is beta-tilde; expm1 keeps it exact there
    return sum_over_features((0.5 * (torch.expm1(log_r) - log_r) + 0.5 * error2 / torch.exp(log_v)).expand_as(error2))


def log_variance(log_beta_tilde: Tensor, log_beta: Tensor, denoised: Denoised, variance: str | float) -> Tensor:
    """log v of the reverse step: a mix of log beta and log beta-tilde (Nichol & Dhariwal 2021, eq. 15).

    Args:
        log_beta_tilde: (B, ...) or (B, 1, ...), log-variance of the bridge.
        log_beta: (B, ...) or (B, 1, ...), log-variance of the forward step.
        denoised: with a variance mix if it is learned.
        variance: of the reverse step, as in ``variational_bound``.
    Raises:
        UsageError: an unknown variance, or ``learned`` for a model without a learned variance.
    """
    if variance == "learned":
        if denoised.variance_mix is None:
            raise UsageError(
                "variance 'learned' needs a model trained with a learned variance; use 'beta' or 'beta_tilde'"
            )
        mix: Tensor | float = denoised.variance_mix.double()
    elif isinstance(variance, str):
        if variance not in ("beta", "beta_tilde"):
            raise UsageError(
                f"variance must be 'beta', 'beta_tilde', 'learned' or a number in [0, 1], got {variance!r}"
            )
        mix = float(variance == "beta")
    elif 0 <= variance <= 1:
        mix = variance
    else:
        raise UsageError(f"variance as a number must lie in [0, 1], the weight of log beta, got {variance!r}")
    return mixed_log_variance(log_beta_tilde, log_beta, mix)


def decoder_term(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    normal: Normal,
    variance: str | float,
    decoder: str | float,
    num_levels: int | None,
    cond: Condition | None,
) -> tuple[Tensor, float | None]:
    """L_0, with draw number 0 of ``normal``, and its standard deviation if that is a single number.

    Args:
        denoiser: evaluated at the first time.
        x_0: (B, ...) data in [-1, 1].
        times: (K,) ascending.
        normal: noise; draw 0 is used.
        variance: of the reverse step, as in ``variational_bound``.
        decoder: standard deviation of L_0, as in ``variational_bound``.
        num_levels: of the data; ``None`` for continuous data.
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    Returns:
        (B,) nats, and a number or None.
    """
    t = times[:1].expand(len(x_0))
    denoised = denoiser(denoiser.process.diffuse(x_0, normal(x_0, 0), t), t, cond)
    if isinstance(decoder, str):
        log_std = decoder_log_std(denoiser.process, x_0, times, denoised, "beta" if decoder == "snr" else variance)
    else:
        log_std = torch.full_like(x_0, math.log(decoder), dtype=torch.float64)
    nats = decoder_nats(x_0.double(), denoised.x_0.double(), log_std, num_levels)
    differs = variance == "learned" and decoder == "reverse"
    return nats, None if differs else float(log_std.flatten()[0].exp())


def decoder_nats(x_0: Tensor, mean: Tensor, log_std: Tensor, num_levels: int | None) -> Tensor:
    """-log P(x_0) of a Gaussian: its mass on the data's levels, or its density for continuous data.

    Args:
        x_0: (B, ...) data in [-1, 1].
        mean: (B, ...) of the Gaussian.
        log_std: (B, ...) logarithm of its standard deviation.
        num_levels: of the data; ``None`` for continuous data.
    Returns:
        (B,) nats.
    """
    if num_levels is not None:
        return -sum_over_features(discretised_gaussian(x_0, mean, log_std, num_levels))
    error2 = (x_0 - mean) ** 2
    return sum_over_features(0.5 * error2 * torch.exp(-2 * log_std) + log_std + 0.5 * math.log(2 * math.pi))


def decoder_log_std(process: Process, x_0: Tensor, times: Tensor, denoised: Denoised, variance: str | float) -> Tensor:
    """Log standard deviation at t_1, shaped like ``x_0``; beta-tilde vanishes there, the second knot's replaces it.

    Args:
        process: the forward process.
        x_0: (B, ...), for the shape.
        times: (K,) ascending.
        denoised: with a variance mix if it is learned.
        variance: of the reverse step, as in ``variational_bound``.
    Returns:
        (B, ...) float64.
    """
    log_large = -process.log_snr(times[:1])  # log (sigma / alpha)^2
    log_small = torch.log(process.bridge(times[:1], times[1:2]).var) if len(times) > 1 else log_large
    x_0 = x_0.double()
    return log_variance(per_row(log_small, x_0), per_row(log_large, x_0), denoised, variance).expand_as(x_0) / 2


def discretised_gaussian(x_0: Tensor, mean: Tensor, log_std: Tensor, num_levels: int = 256) -> Tensor:
    """log of a Gaussian's mass on each level's interval; the outermost levels reach to infinity.

    Args:
        x_0: levels -1 + 2 k / (num_levels - 1), any shape.
        mean: of the Gaussian, same shape.
        log_std: logarithm of its standard deviation, same shape or broadcast to it.
        num_levels: of the data.
    Returns:
        log-probabilities, same shape.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 13.
    """
    half = 1 / (num_levels - 1)
    scale = torch.exp(-log_std)
    upper = torch.where(x_0 > 1 - half / 2, torch.inf, (x_0 + half - mean) * scale)
    lower = torch.where(x_0 < -1 + half / 2, -torch.inf, (x_0 - half - mean) * scale)
    # mirrored into the lower tail, where the difference of two small probabilities keeps its precision
    swap = lower > 0
    upper, lower = torch.where(swap, -lower, upper), torch.where(swap, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    log_mass: Tensor = log_upper + torch.log1p(-torch.exp((log_lower - log_upper).clamp(max=-1e-300)))
    return log_mass
