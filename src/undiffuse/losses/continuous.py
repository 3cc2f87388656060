"""The variational bound in continuous time: the limit of fine grids, as an integral over the log-SNR.

    -log p(x_0) <= L_T + 1/2 int E ||eps - eps-hat(x_t)||^2 d lambda + L_0

between a noisy and a clean end, with ||eps - eps-hat||^2 = exp(lambda) ||x_0 - x_0-hat||^2. The log-SNRs are drawn per
sample, stratified and uniform over the range: the integrand is between 0 and about D everywhere, so few draws are
enough. Every process has the same bound between the same ends.

Source: Kingma et al. 2021, arXiv:2107.00630, eqs. 17-19; Song et al. 2021, "Maximum Likelihood Training of Score-Based
Diffusion Models", arXiv:2101.09258, theorem 3 and corollary 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.rows import sum_over_features
from undiffuse.errors import UsageError
from undiffuse.losses.variational import Normal, bits_per_dim, decoder_term, prior_term


@dataclass(frozen=True)
class ContinuousBound:
    """The parts of the bound in nats, ``(B,)`` each.

    Attributes:
        prior: L_T at the noisy end.
        diffusion: the integral, estimated from ``num_draws`` log-SNRs per sample.
        decoder: L_0 at the clean end.
        num_dims: elements of a sample.
        num_draws: log-SNRs per sample.
        log_snr_range: (noisy, clean) ends.
        decoder_std: sigma / alpha at the clean end.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    num_dims: int
    num_draws: int
    log_snr_range: tuple[float, float]
    decoder_std: float

    @property
    def total(self) -> Tensor:
        """The bound on -log p, ``(B,)`` nats."""
        return self.prior + self.diffusion + self.decoder

    def bits_per_dim(self, nats: Tensor) -> Tensor:
        """Nats per sample to bits per dimension.

        Args:
            nats: (B,).
        """
        return bits_per_dim(nats, self.num_dims)


@torch.no_grad()
def continuous_bound(
    denoiser: Denoiser,
    x_0: Tensor,
    normal: Normal,
    log_snr_range: tuple[float, float],
    *,
    num_draws: int = 32,
    decoder: Literal["levels", "density"] = "levels",
    num_levels: int = 256,
    cond: Condition | None = None,
) -> ContinuousBound:
    """The bound between two log-SNRs, which for the exact denoiser is tight on average.

    Args:
        denoiser: of any process.
        x_0: (B, ...) data.
        normal: noise; draw 0 is for the decoder, 1 ... ``num_draws`` for the integral, the next for the log-SNRs.
        log_snr_range: (noisy, clean) ends, both finite.
        num_draws: log-SNRs per sample, one in each of as many equal strata.
        decoder: ``levels``, a Gaussian of deviation sigma / alpha integrated over the levels of the data, for a
            bound on -log of a probability; ``density``, that Gaussian's entropy, for one on the mean of -log p over
            y = x_0 + (sigma / alpha) eps at the clean end, the density that ``samplers.likelihood`` gives.
        num_levels: evenly spaced values of the data in [-1, 1].
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    Raises:
        UsageError: an unknown decoder, ``num_draws`` below 1, or ends that are not finite and ascending.
    """
    low, high = log_snr_range
    if not -math.inf < low < high < math.inf:
        raise UsageError(f"the continuous bound needs finite log-SNRs, the noisy one first, got {low} and {high}")
    if num_draws < 1:
        raise UsageError(f"the continuous bound needs at least 1 draw, got {num_draws}")
    ends = torch.tensor([low, high], dtype=torch.float64)
    first, last = denoiser.process.time_of_log_snr(ends).to(x_0.device)
    std = denoiser.process.start_std(float(first))
    return ContinuousBound(
        prior=prior_term(denoiser, x_0, first, std),
        diffusion=_integral(denoiser, x_0, normal, low, high, num_draws, cond),
        decoder=_decoder(denoiser, x_0, normal, last, decoder, num_levels, cond),
        num_dims=x_0.shape[1:].numel(),
        num_draws=num_draws,
        log_snr_range=(low, high),
        decoder_std=math.exp(-high / 2),
    )


def _integral(
    denoiser: Denoiser, x_0: Tensor, normal: Normal, low: float, high: float, num_draws: int, cond: Condition | None
) -> Tensor:
    like = torch.empty(len(x_0), num_draws, dtype=torch.float64, device=x_0.device)
    within = torch.special.ndtr(normal(like, num_draws + 1))
    total = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
    for number in range(num_draws):
        log_snr = low + (high - low) * (number + within[:, number]) / num_draws
        t = denoiser.process.time_of_log_snr(log_snr)
        denoised: Denoised = denoiser(denoiser.process.diffuse(x_0, normal(x_0, number + 1), t), t, cond)
        error2 = sum_over_features((x_0.double() - denoised.x_0.double()) ** 2)
        total += torch.exp(log_snr) * error2
    return 0.5 * (high - low) * total / num_draws


def _decoder(
    denoiser: Denoiser,
    x_0: Tensor,
    normal: Normal,
    t: Tensor,
    decoder: str,
    num_levels: int,
    cond: Condition | None,
) -> Tensor:
    if decoder == "levels":
        return decoder_term(denoiser, x_0, t[None], normal, "beta", "snr", num_levels, cond)[0]
    if decoder != "density":
        raise UsageError(f"decoder of the continuous bound must be 'levels' or 'density', got {decoder!r}")
    entropy = 0.5 * (math.log(2 * math.pi * math.e) - denoiser.process.log_snr(t[None]))
    return x_0.shape[1:].numel() * entropy.expand(len(x_0))
