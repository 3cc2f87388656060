"""The probability-flow ODE in a normalised coordinate in which all processes are identical.

With a^2 = sigmoid(lambda) and b^2 = sigmoid(-lambda) every process is

    x~ = x_t / sqrt(alpha^2 + sigma^2) = a x_0 + b eps,

and its probability-flow ODE, as a function of the log-SNR,

    dx~ / dlambda = -(a b / 2) v-hat = (a / 2) (x_0-hat - a x~),   v-hat = a eps-hat - b x_0-hat,

is bounded and smooth over the whole range and at both ends. ``Process.norm`` is the factor between x~ and x_t.

Source: Song et al. 2021, arXiv:2011.13456, sec. 4.3, for the ODE; Salimans & Ho 2022, arXiv:2202.00512, for v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.rows import per_row


def signal(log_snr: Tensor) -> Tensor:
    """a = sqrt(sigmoid(lambda)), the signal coefficient of x~.

    Args:
        log_snr: (B,) log-SNRs.
    """
    # torch.sigmoid is not bitwise identical for a single element and in a batch
    return 1 / torch.sqrt(1 + torch.exp(-log_snr))


def slope(log_snr: Tensor, x: Tensor, x_0: Tensor) -> Tensor:
    """dx~ / dlambda from x_0-hat.

    Args:
        log_snr: (B,) log-SNRs.
        x: (B, ...) x~.
        x_0: (B, ...) x_0-hat at x~.
    """
    a = per_row(signal(log_snr), x)
    return a / 2 * (x_0 - a * x)


def flow(denoiser: Denoiser, x: Tensor, log_snr: Tensor, dtype: torch.dtype, cond: Condition | None = None) -> Tensor:
    """dx~ / dlambda, with one evaluation of the denoiser.

    Args:
        denoiser: evaluated at x_t = sqrt(alpha^2 + sigma^2) x~.
        x: (B, ...) x~; the result has its dtype.
        log_snr: (B,) log-SNRs.
        dtype: dtype of the denoiser's input.
        cond: (B, ...) fields that the samples are conditioned on; None is unconditional.
    """
    process = denoiser.process
    t = process.time_of_log_snr(log_snr)
    denoised: Denoised = denoiser((per_row(process.norm(t), x) * x).to(dtype), t, cond)
    return slope(log_snr, x, denoised.x_0.to(x.dtype))
