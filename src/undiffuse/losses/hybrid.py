"""Losses of a learned variance: the variational bound at one random knot, alone or with the denoising loss.

For t = k / T and s = (k - 1) / T the bound's term in bits per dimension is

    L(t) = KL(q(x_s | x_t, x_0) || N(c_t x_t + c_0 x_0-hat, v)) / (D log 2)      k = 2 ... T
    L(t) = -log P(x_0 | x_t) / (D log 2)                                         k = 1, the decoder

with v the learned variance. With t uniform over the knots the mean of T L(t) is the bound without its constant prior
term. The two losses are

    variational     T L(t)
    hybrid          w(t) ||x_0 - x_0-hat||^2 + bound_weight T L(t), with a stop-gradient on x_0-hat in L

so in the hybrid loss the bound trains only the variance and the denoising loss trains x_0-hat.

Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672, sec. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, NetworkDenoiser
from undiffuse.core.process import Process
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import output_error
from undiffuse.losses.variational import bits_per_dim, decoder_log_std, decoder_nats, term
from undiffuse.losses.weighting import LogWeight

#: Weight of the bound in the hybrid loss (Nichol & Dhariwal 2021, sec. 3.1).
BOUND_WEIGHT = 0.001


def bound_term(process: Process, x_0: Tensor, t: Tensor, denoised: Denoised, num_levels: int | None = 256) -> Tensor:
    """T L(t) in bits per dimension, L the bound's term that ends at knot t.

    Args:
        process: with T >= 2 steps.
        x_0: (B, ...) clean data.
        t: (B,) knots k / T, k = 1 ... T.
        denoised: at x_t, with a ``variance_mix``.
        num_levels: evenly spaced values of the data in [-1, 1]; the first knot's Gaussian is integrated over one of
            them. ``None`` for continuous data: the Gaussian's density is used, and the bound may be negative.
    Returns:
        (B,) float64.
    Raises:
        UsageError: a process with fewer than two steps.
    """
    num_steps = process.num_steps
    if num_steps is None or num_steps < 2:
        raise UsageError("the bound's terms need a process with num_steps of at least 2, such as 'ddpm_linear'")
    x_0, denoised = x_0.double(), Denoised(denoised.x_0.double(), denoised.variance_mix)
    knot = torch.round(t.double() * num_steps)
    # the first knot has no bridge: the second's, which is finite, is a placeholder for the decoder term below
    later = knot.clamp(min=2)
    nats = term(process.bridge((later - 1) / num_steps, later / num_steps), x_0, denoised, "learned")
    first = torch.nonzero(knot == 1)[:, 0]
    at_first = Denoised(denoised.x_0[first], None if denoised.variance_mix is None else denoised.variance_mix[first])
    nats = nats.index_copy(0, first, _decoder(process, x_0[first], at_first, num_levels))
    return num_steps * bits_per_dim(nats, x_0.shape[1:].numel())


def _decoder(process: Process, x_0: Tensor, denoised: Denoised, num_levels: int | None) -> Tensor:
    """-log P(x_0 | x_{t_1}), ``(B,)`` nats, with the deviation that ``variational_bound(decoder="reverse")`` takes."""
    num_steps = process.num_steps or 1
    times = torch.tensor([1.0, 2.0], dtype=torch.float64, device=x_0.device) / num_steps
    log_std = decoder_log_std(process, x_0, times, denoised, "learned")
    return decoder_nats(x_0, denoised.x_0, log_std, num_levels)


def variational_loss(
    denoiser: NetworkDenoiser,
    x_0: Tensor,
    eps: Tensor,
    t: Tensor,
    cond: Condition | None = None,
    num_levels: int | None = 256,
) -> Tensor:
    """T L(t) in bits per dimension.

    Args:
        denoiser: with a learned variance; its network is evaluated once.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) knots k / T, k = 1 ... T.
        cond: (B, ...) fields that the network is conditioned on; None is unconditional.
        num_levels: see ``bound_term``.
    Returns:
        (B,) losses in the dtype of ``x_0``.
    """
    x_t = denoiser.process.diffuse(x_0, eps, t)
    output, mix = denoiser.outputs(x_t, t, cond)
    return bound_term(denoiser.process, x_0, t, _denoised(denoiser, output, mix, x_t, t), num_levels).to(x_0.dtype)


def hybrid_loss(
    denoiser: NetworkDenoiser,
    x_0: Tensor,
    eps: Tensor,
    t: Tensor,
    log_weight: LogWeight,
    cond: Condition | None = None,
    num_levels: int | None = 256,
    bound_weight: float = BOUND_WEIGHT,
) -> Tensor:
    """The denoising loss plus ``bound_weight`` times the bound, which trains only the variance.

    Args:
        denoiser: with a learned variance; its network is evaluated once.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) knots k / T, k = 1 ... T.
        log_weight: a row of ``WEIGHTINGS``, of the denoising loss.
        cond: (B, ...) fields that the network is conditioned on; None is unconditional.
        num_levels: see ``bound_term``.
        bound_weight: on T L(t) in bits per dimension, relative to a mean over elements.
    Returns:
        (B,) losses in the dtype of ``x_0``.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16.
    """
    x_t = denoiser.process.diffuse(x_0, eps, t)
    output, mix = denoiser.outputs(x_t, t, cond)
    bound = bound_term(denoiser.process, x_0, t, _denoised(denoiser, output.detach(), mix, x_t, t), num_levels)
    error = output_error(denoiser.parameterization, output, x_0, eps, t, log_weight)
    return error + (bound_weight * bound).to(error.dtype)


def _denoised(denoiser: NetworkDenoiser, output: Tensor, mix: Tensor | None, x_t: Tensor, t: Tensor) -> Denoised:
    """x_0-hat in float64 for any network precision: its error matters down to a fraction of beta."""
    return Denoised(denoiser.parameterization.x_0(output.double(), x_t.double(), t), mix)
