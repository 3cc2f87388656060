"""A learned variance of the reverse step: how a mix between beta-tilde and beta becomes a variance.

A network with a learned variance predicts, for every element, where its logarithm lies between the two ends,

    log v = mix log beta + (1 - mix) log beta-tilde

with beta-tilde the bridge's own variance, right when the data is one point, and beta the forward step's, right when it
is N(0, I). The mix is read at (x_t, t) alone, so one network serves steps of any length.

Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672, eq. 15.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.process import Bridge, Process
from undiffuse.core.rows import per_row


def mix_of(raw: Tensor) -> Tensor:
    """The mix that a network's variance channels predict, -1 for beta-tilde and 1 for beta: (raw + 1) / 2.

    It is not clipped to [0, 1]: beyond a clip no gradient would bring it back, and where x_0-hat errs much the best
    variance is larger than beta.

    Args:
        raw: (B, C, ...) the network's variance channels.
    """
    return (raw + 1) / 2


def mixed_log_variance(log_beta_tilde: Tensor, log_beta: Tensor, mix: Tensor | float) -> Tensor:
    """mix log beta + (1 - mix) log beta-tilde, the three broadcast together.

    Args:
        log_beta_tilde: (B, ...) or (B, 1, ...), log-variance of the bridge.
        log_beta: (B, ...) or (B, 1, ...), log-variance of the forward step.
        mix: (B, ...) or one number, 0 for beta-tilde and 1 for beta.
    """
    return mix * log_beta + (1 - mix) * log_beta_tilde


def mixed_variance(bridge: Bridge, mix: Tensor) -> Tensor:
    """The variance of a reverse step in float64; 0 where the bridge's own is (at sigma = 0).

    Args:
        bridge: of the step, coefficients (B,).
        mix: (B, ...) the network's, 0 for beta-tilde and 1 for beta.
    Returns:
        (B, ...) float64 like ``mix``.
    """
    mix = mix.double()
    vanishes = per_row(bridge.var, mix) == 0
    log_beta_tilde, log_beta = torch.log(per_row(bridge.var, mix)), torch.log(per_row(bridge.var_max, mix))
    return torch.where(vanishes, torch.zeros_like(mix), torch.exp(mixed_log_variance(log_beta_tilde, log_beta, mix)))


def transferred_mix(mix: Tensor, own: Process, t_own: Tensor, process: Process, t: Tensor) -> Tensor:
    """The mix of one process, for steps of another process at the same log-SNR.

    The variance itself only scales along with x, but its ends do not: log beta - log beta-tilde is
    2 log(sigma_t / sigma_s), which in short steps is in proportion to d log sigma / d lambda. So it is right for short
    steps; for long ones it is kept from going beyond beta.

    Args:
        mix: (B, ...) predicted under ``own``.
        own: the process of the mix.
        t_own: (B,) its times.
        process: the process of the steps.
        t: (B,) its times, of the same log-SNRs as ``t_own``.
    Returns:
        (B, ...) like ``mix``.
    """
    ratio = per_row(_noise_share(own, t_own) / _noise_share(process, t), mix)
    return torch.minimum(ratio * mix, mix.clamp(min=1))


def _noise_share(process: Process, t: Tensor) -> Tensor:
    """-2 d log sigma / d lambda: 1 where only the noise changes, alpha^2 where alpha^2 + sigma^2 = 1; ``(B,)``."""
    alpha, sigma, (d_alpha, d_sigma) = process.alpha(t), process.sigma(t), process.rates(t)
    return alpha * d_sigma / (alpha * d_sigma - d_alpha * sigma)
