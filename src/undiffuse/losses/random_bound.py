"""An unbiased estimate of the variational bound from a few random terms per image, for many images.

    sum_i L_i  =  E_{i ~ p} [ L_i / p_i ],       p_i in proportion to the term's share of the log-SNR,

which is importance sampling: uniform over the log-SNR, the terms differ far less than over the steps of a chain. The
prior (no evaluation) and the decoder (one evaluation) are always computed.

Source: Ho et al. 2020, arXiv:2006.11239, sec. 3.4 (random terms); Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.3
(importance sampling of terms).
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.errors import UsageError
from undiffuse.losses.variational import Bound, Normal, assembled_bound, check_decoder, check_grid, term


@torch.no_grad()
def random_bound(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    normal: Normal,
    *,
    num_draws: int = 1,
    variance: str | float = "beta",
    decoder: str | float = "snr",
    num_levels: int | None = 256,
    cond: Condition | None = None,
) -> Bound:
    """``variational_bound`` with its sum of terms replaced by an unbiased estimate.

    Args:
        denoiser: with a ``variance_mix`` in its output where ``variance`` is ``learned``.
        x_0: (B, ...) data on ``num_levels`` evenly spaced values in [-1, 1].
        times: (K,) ascending, at least two, sigma(t_1) > 0.
        normal: noise; draw 0 is for the decoder, 1 ... ``num_draws`` for the terms, the next to choose them.
        num_draws: terms per sample, one from each of as many strata of equal probability.
        variance: of the reverse step, as in ``variational_bound``.
        decoder: standard deviation of L_0, as in ``variational_bound``.
        num_levels: of the data; ``None`` for continuous data.
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    Returns:
        A bound whose ``terms`` (B, num_draws) sum up to the estimate.
    Raises:
        UsageError: fewer than two times or one draw, or as ``variational_bound`` does.
    """
    check_decoder(decoder)
    times = check_grid(denoiser, times).to(x_0.device)
    if len(times) < 2 or num_draws < 1:
        raise UsageError(f"random terms need two times and one draw at least, got {len(times)} and {num_draws}")
    shares = term_shares(denoiser.process, times)
    like = torch.empty(len(x_0), num_draws, dtype=torch.float64, device=x_0.device)
    within = torch.special.ndtr(normal(like, num_draws + 1))
    terms = []
    for number in range(num_draws):
        picked = torch.searchsorted(shares.cumsum(0), (number + within[:, number]) / num_draws)
        picked = picked.clamp(max=len(shares) - 1)
        s, t = times[picked], times[picked + 1]
        denoised = denoiser(denoiser.process.diffuse(x_0, normal(x_0, number + 1), t), t, cond)
        nats = term(denoiser.process.bridge(s, t), x_0, denoised, variance)
        terms.append(nats / (shares[picked] * num_draws))
    return assembled_bound(torch.stack(terms, 1), denoiser, x_0, times, normal, variance, decoder, num_levels, cond)


def term_shares(process: Process, times: Tensor) -> Tensor:
    """The probability of each term, its share of the log-SNR range; a step to -inf counts as the smallest one.

    Args:
        process: the forward process.
        times: (K,) ascending.
    Returns:
        (K - 1,) float64 that sum up to 1.
    """
    spans = -process.log_snr(times).diff()
    finite = torch.isfinite(spans)
    smallest = spans[finite].amin() if bool(finite.any()) else torch.ones_like(spans[0])
    spans = torch.where(finite, spans, smallest)
    return spans / spans.sum()
