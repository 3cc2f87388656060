"""Whether samples are little more than noise: how much neighbouring pixels correlate, compared with the data.

For images x about the mean of each channel, of variance v over all pixels,

    r = 1 - E (x_i - x_j)^2 / 2 v,     i and j next to each other in a row or a column,

which is 0 for white noise and near 1 for photographs. Noise that was not taken away lowers it: of a share s of the
variance that is white, r falls to (1 - s) of itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.diagnostics.samples import both

#: Correlation of the data below which it does not differ from noise, and the share of it that samples must reach.
_TELLING, _ENOUGH = 0.15, 0.5


def noise(context: RunContext) -> Iterable[Finding]:
    """Whether samples are little more than noise."""
    yield assess_noise(*both(context))


def assess_noise(samples: Tensor, real: Tensor) -> Finding:
    """See ``noise``, of two sets of uint8 images (B, C, H, W)."""
    ours, theirs = neighbour_correlation(samples), neighbour_correlation(real)
    text = f"neighbouring pixels of samples correlate by {ours:.2f}, those of the data by {theirs:.2f}"
    details = {"correlation": ours, "data_correlation": theirs}
    if is_noise(ours, theirs):
        advice = "too few images were seen: train for more num_images; with enough of them, see the other findings"
        return Finding("problem", "samples are little more than noise", text, advice, details)
    return Finding("ok", "samples are no noise", text, details=details)


def is_noise(samples: float, data: float) -> bool:
    """Whether this correlation means that samples are mostly noise, given that of the data."""
    return data >= _TELLING and samples < _ENOUGH * data


def neighbour_correlation(images: Tensor) -> float:
    """How much neighbouring pixels correlate, from 0 for white noise to 1 for a plain field.

    Args:
        images: (B, C, H, W), of any type; 1 where they do not differ, or have no neighbours.
    """
    x = images.to(torch.float64)
    x = x - x.mean((0, 2, 3), keepdim=True)
    steps = [x.diff(dim=dim).square().flatten() for dim in (2, 3)]
    variance, step = float(x.square().mean()), torch.cat(steps)
    return 1 - float(step.mean()) / (2 * variance) if variance > 0 and len(step) else 1.0
