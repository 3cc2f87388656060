"""Autoguidance: a denoiser pushed away from what a worse model of the same data would say."""

from __future__ import annotations

import math

from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.errors import UsageError


class Autoguided(Denoiser):
    """x_0-hat = x_0-hat(guide) + w (x_0-hat(model) - x_0-hat(guide)), at the price of both.

    Where the model is unsure its guide is more so, in the same direction; going on from guide to model leads to where
    the data are dense. It needs no classes. w = 1 is the model itself. A learned variance is the model's own.

    Args:
        denoiser: the model.
        guide: the worse one, of the same process and condition, such as the same network earlier in its training.
        scale: w.
    Raises:
        UsageError: a weight that is negative or not finite.
    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", arXiv:2406.02507, eq. 5.
    """

    def __init__(self, denoiser: Denoiser, guide: Denoiser, scale: float) -> None:
        super().__init__()
        self.denoiser, self.guide, self.scale = denoiser, guide, check_autoguidance(scale)
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        good: Denoised = self.denoiser(x_t, t, cond)
        bad: Denoised = self.guide(x_t, t, cond)
        pushed = bad.x_0 + self.scale * (good.x_0 - bad.x_0)
        return Denoised(pushed, good.variance_mix, good.nfe + bad.nfe)


def check_autoguidance(scale: float) -> float:
    """Refuse a weight that is not a finite number from 0 on."""
    if not (math.isfinite(scale) and scale >= 0):
        raise UsageError(f"autoguidance must be a number from 0 on, got {scale}; 1 is without")
    return scale
