"""Times of studies: parsing, matching between processes, labels, and the display of x_t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from undiffuse.core.process import Process
from undiffuse.core.processes import DiscreteVP
from undiffuse.models.base import to_uint8
from undiffuse.studies.images.context import ImageArray, ImageStudyContext

#: The chain by whose steps noise levels are specified, see ``matched_times``.
_DDPM = DiscreteVP.linear()


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


#: A time of the forward process; 1 is pure noise.
Fraction = Annotated[float, Field(ge=0, le=1)]
#: One or more times, written ``0.5`` or ``[0.25,0.5]``.
Fractions = Annotated[tuple[Fraction, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


def matched_times(context: ImageStudyContext, fractions: Sequence[float]) -> list[float]:
    """Times with the log-SNR of DDPM's linear chain after these fractions of its 1000 steps.

    So "500 of 1000 steps" means the same amount of noise under every process. For a chain the nearest knots are
    returned; times are limited to the noise levels of training.
    """
    fraction = torch.tensor(list(fractions), dtype=torch.float64)
    log_snr = _DDPM.log_snr(fraction).clamp(min=context.denoiser.log_snr_range[0])
    times = torch.where(fraction == 0, fraction, context.process.time_of_log_snr(log_snr))
    num_steps = context.process.num_steps
    return (times if num_steps is None else (times * num_steps).round() / num_steps).tolist()


def time_label(process: Process, t: float) -> str:
    """A label of two lines: the time, and lambda, the log-SNR at that time."""
    log_snr = float(process.log_snr(torch.tensor([t], dtype=torch.float64)))
    value = "∞" if abs(log_snr) == math.inf else f"{abs(log_snr):.1f}"
    sign = "−" if log_snr < 0 and value != "0.0" else ""
    return f"t = {t:.3g}\nλ = {sign}{value}"


def visible(process: Process, x_t: Tensor, t: float) -> ImageArray:
    """x_t (N, C, H, W) as uint8: black to white is -(alpha + 2 sigma) to alpha + 2 sigma, so that noise is visible."""
    at = torch.tensor([t], dtype=torch.float64)
    shown: ImageArray = to_uint8(x_t / float(process.alpha(at) + 2 * process.sigma(at))).cpu().numpy()
    return shown
