"""Whether samples are mostly noise: the correlation of neighbouring pixels, compared with the data.

For images x with the mean of each channel removed, and variance v over all pixels,

    r = 1 - E (x_i - x_j)^2 / 2 v,     i and j adjacent in a row or a column,

which is 0 for white noise and near 1 for photographs. Residual noise lowers it: if a fraction s of the variance is
white noise, r is multiplied by (1 - s).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.diagnostics.samples import samples_and_data

#: Correlation of the data below which it cannot be distinguished from noise; fraction of it that samples must reach.
_MIN_CORRELATION, _MIN_FRACTION = 0.15, 0.5


def noise(context: RunContext) -> Iterable[Finding]:
    """Whether samples are mostly noise."""
    yield assess_noise(*samples_and_data(context))


def assess_noise(samples: Tensor, real: Tensor) -> Finding:
    """The finding of ``noise`` for two sets of uint8 images (B, C, H, W)."""
    correlation, data_correlation = neighbour_correlation(samples), neighbour_correlation(real)
    text = f"neighbouring pixels of samples correlate by {correlation:.2f}, those of the data by {data_correlation:.2f}"
    details = {"correlation": correlation, "data_correlation": data_correlation}
    if is_noise(correlation, data_correlation):
        advice = "too few images were seen: train for more num_images; with enough of them, see the other findings"
        return Finding("problem", "samples are little more than noise", text, advice, details)
    return Finding("ok", "samples are not noise", text, details=details)


def is_noise(samples: float, data: float) -> bool:
    """Whether samples with this correlation are mostly noise, given that of the data."""
    return data >= _MIN_CORRELATION and samples < _MIN_FRACTION * data


def neighbour_correlation(images: Tensor) -> float:
    """Correlation of neighbouring pixels, from 0 for white noise to 1 for constant images.

    Args:
        images: (B, C, H, W), of any dtype; the result is 1 if they are constant or have no neighbouring pixels.
    """
    x = images.to(torch.float64)
    x = x - x.mean((0, 2, 3), keepdim=True)
    steps = [x.diff(dim=dim).square().flatten() for dim in (2, 3)]
    variance, step = float(x.square().mean()), torch.cat(steps)
    return 1 - float(step.mean()) / (2 * variance) if variance > 0 and len(step) else 1.0
