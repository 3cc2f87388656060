"""Where sampling starts: the noisiest level that a model was trained on, and a warning if signal is left there."""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser, TransferredDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import make_process
from undiffuse.core.terminal_noise import specs_ending_in_noise, terminal_noise
from undiffuse.samplers.grids import WIDEST_LOG_SNR

#: Coefficients of x_0-hat above this are divisions by zero up to rounding.
_LARGEST_COEFFICIENT = 1e12
#: Approximate standard deviation of images in [-1, 1], for messages about sampling when the data are not available.
_DEVIATION = 0.5


def sampling_log_snr_range(parameterization: Parameterization, ends: Tensor) -> tuple[float, float]:
    """(smallest, largest) log-SNR at which a denoiser may be evaluated: those of the last and first training time.

    If x_0-hat is undefined at the noisy end (``eps`` divides by alpha = 0), the range ends at sigma / alpha = 80.

    Args:
        parameterization: parameterization of the network, under its process.
        ends: (2,), the last and the first time of training, float64.
    """
    low, high = parameterization.process.log_snr(ends).tolist()
    coefficients = torch.stack(parameterization(ends[:1])[:4])
    return (low if bool((coefficients.abs() < _LARGEST_COEFFICIENT).all()) else max(low, WIDEST_LOG_SNR[0])), high


def transferred(denoiser: Denoiser, spec: str) -> tuple[Denoiser, str]:
    """Transfer ``denoiser`` to another process; also returns a message if sampling does not start at its prior.

    Args:
        denoiser: denoiser under its training process.
        spec: an entry of ``PROCESSES`` with options, such as ``ve:sigma_max=80``.
    """
    process = make_process(spec)
    prior, (lowest, _) = float(process.log_snr(torch.ones(1))), denoiser.log_snr_range
    starts_late = f"{spec} starts at log-SNR {prior:.2f}, but the model was trained down to {lowest:.2f}: starts there"
    return TransferredDenoiser(denoiser, process), starts_late if prior < lowest else ""


def signal_at_start(process: Process, time: float, spec: str | None, images: bool) -> str:
    """A warning if sampling starts from pure noise although the process leaves signal there; "" otherwise.

    Args:
        process: the forward process of sampling.
        time: the time at which sampling starts, in [0, 1].
        spec: the process as specified by the request, if any.
        images: whether the data are images; points are assumed to have mean 0 and variance 1.
    """
    deviation, mean = (_DEVIATION, _DEVIATION) if images else (1.0, 0.0)
    start = terminal_noise(process, time)
    if not start.biases_samples(deviation, mean):
        return ""
    ways = " or ".join(specs_ending_in_noise(spec)) if spec is not None else ""
    return f"sampling starts at {start.consequence(deviation)}{f'; use process {ways}' if ways else ''}"
