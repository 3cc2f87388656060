"""Where sampling begins: the noisiest level that a model was trained on, and a note where signal is left there."""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser, TransferredDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import make_process
from undiffuse.core.terminal_noise import specs_ending_in_noise, terminal_noise
from undiffuse.samplers.grids import WIDEST_LOG_SNR

#: A coefficient of x_0-hat beyond this is a division by what is zero but for rounding.
_LARGEST_COEFFICIENT = 1e12
#: Of images in [-1, 1], about; in what is said of sampling, where the data are not at hand.
_DEVIATION = 0.5


def sampling_log_snr_range(parameterization: Parameterization, ends: Tensor) -> tuple[float, float]:
    """(smallest, largest) log-SNR at which a denoiser may be evaluated: those of training's last and first time.

    Where the parameterization says nothing about x_0 at the noisy end (``eps`` divides by alpha = 0), the range stops
    at sigma / alpha = 80.

    Args:
        parameterization: of the network, under its process.
        ends: (2,), the last and the first time of training, float64.
    """
    low, high = parameterization.process.log_snr(ends).tolist()
    row = torch.stack(parameterization(ends[:1])[:4])
    return (low if bool((row.abs() < _LARGEST_COEFFICIENT).all()) else max(low, WIDEST_LOG_SNR[0])), high


def transferred(denoiser: Denoiser, spec: str) -> tuple[Denoiser, str]:
    """``denoiser`` under another process, and a line on where sampling starts if that is not at its prior.

    Args:
        denoiser: under the process that it was trained under.
        spec: a row of ``PROCESSES`` with options, such as ``ve:sigma_max=80``.
    """
    process = make_process(spec)
    prior, (lowest, _) = float(process.log_snr(torch.ones(1))), denoiser.log_snr_range
    starts_late = f"{spec} begins at log-SNR {prior:.2f}, the model was trained down to {lowest:.2f}: starts there"
    return TransferredDenoiser(denoiser, process), starts_late if prior < lowest else ""


def signal_at_start(process: Process, time: float, spec: str | None, images: bool) -> str:
    """What to say where samples begin as noise alone though the process leaves signal there; "" for nothing.

    Args:
        process: that sampling goes back through.
        time: where it begins, in [0, 1].
        spec: the process as the request names it, if it does.
        images: whether the data are images, or points, which are taken to be of unit variance about 0.
    """
    deviation, mean = (_DEVIATION, _DEVIATION) if images else (1.0, 0.0)
    start = terminal_noise(process, time)
    if not start.biases_samples(deviation, mean):
        return ""
    ways = " or ".join(specs_ending_in_noise(spec)) if spec is not None else ""
    return f"sampling begins at {start.consequence(deviation)}{f'; take process {ways}' if ways else ''}"
