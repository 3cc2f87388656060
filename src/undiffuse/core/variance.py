"""Learned variance of the reverse step: conversion of the predicted mix between beta-tilde and beta to a variance.

A network with a learned variance interpolates, for every element, between the logarithms of two variances,

    log v = mix log beta + (1 - mix) log beta-tilde

with beta-tilde the variance of the bridge (optimal if the data is a single point) and beta that of the forward step
(optimal for data from N(0, I)). The mix depends on (x_t, t) only, so one network supports steps of any length.

Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672, eq. 15.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.process import Bridge, Process
from undiffuse.core.rows import per_row


def mix_of(raw: Tensor) -> Tensor:
    """The mix that a network's variance channels predict, -1 for beta-tilde and 1 for beta: (raw + 1) / 2.

    It is not clipped to [0, 1]: clipping would stop its gradient, and if the error of x_0-hat is large the optimal
    variance exceeds beta.

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
    """The variance of a reverse step in float64; 0 if that of the bridge is 0 (at sigma = 0).

    Args:
        bridge: coefficients (B,) of the step.
        mix: (B, ...) predicted mix, 0 for beta-tilde and 1 for beta.
    Returns:
        (B, ...) float64 like ``mix``.
    """
    mix = mix.double()
    vanishes = per_row(bridge.var, mix) == 0
    log_beta_tilde, log_beta = torch.log(per_row(bridge.var, mix)), torch.log(per_row(bridge.var_max, mix))
    return torch.where(vanishes, torch.zeros_like(mix), torch.exp(mixed_log_variance(log_beta_tilde, log_beta, mix)))


def transferred_mix(mix: Tensor, source: Process, t_source: Tensor, process: Process, t: Tensor) -> Tensor:
    """Convert the mix predicted under one process to steps of another process at the same log-SNR.

    The variance scales with x, but beta and beta-tilde do not: log beta - log beta-tilde is 2 log(sigma_t / sigma_s),
    which for short steps is proportional to d log sigma / d lambda. The conversion is exact in the limit of short
    steps; for long steps the mix is limited so that the variance does not exceed beta.

    Args:
        mix: (B, ...) predicted under ``source``.
        source: the process of the mix.
        t_source: (B,) times of ``source``.
        process: the process of the steps.
        t: (B,) times of ``process``, with the same log-SNRs as ``t_source``.
    Returns:
        (B, ...) like ``mix``.
    """
    ratio = per_row(_noise_fraction(source, t_source) / _noise_fraction(process, t), mix)
    return torch.minimum(ratio * mix, mix.clamp(min=1))


def _noise_fraction(process: Process, t: Tensor) -> Tensor:
    """-2 d log sigma / d lambda: 1 if only the noise changes, alpha^2 if alpha^2 + sigma^2 = 1; ``(B,)``."""
    alpha, sigma, (d_alpha, d_sigma) = process.alpha(t), process.sigma(t), process.rates(t)
    return alpha * d_sigma / (alpha * d_sigma - d_alpha * sigma)
