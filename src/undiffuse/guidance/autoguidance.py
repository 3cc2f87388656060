"""Autoguidance: a denoiser pushed away from what a worse model of the same data would say."""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import EVERYWHERE, check_autoguidance_weight, check_interval


class Autoguided(Denoiser):
    """x_0-hat = x_0-hat(guide) + w (x_0-hat(model) - x_0-hat(guide)), at the price of both.

    Where the model is unsure its guide is more so, in the same direction; going on from guide to model leads to where
    the data are dense. It needs no classes. w = 1 is the model itself. A learned variance is the model's own. A batch
    none of whose rows lies within the interval pays for the model alone.

    Args:
        denoiser: the model.
        guide: the worse one, of the same process and condition, such as the same network earlier in its training.
        scale: w.
        interval: (smallest, largest) log-SNR that is guided, both included.
    Raises:
        UsageError: a weight that is negative or not finite, an interval without extent.
    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", arXiv:2406.02507, eq. 5; the
        interval is that of Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """

    def __init__(
        self, denoiser: Denoiser, guide: Denoiser, scale: float, interval: tuple[float, float] = EVERYWHERE
    ) -> None:
        super().__init__()
        self.denoiser, self.guide, self.scale = denoiser, guide, check_autoguidance_weight(scale)
        self.interval = check_interval(interval)
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        good: Denoised = self.denoiser(x_t, t, cond, evaluation)
        log_snr = self.process.log_snr(t)
        guided = (log_snr >= self.interval[0]) & (log_snr <= self.interval[1])
        if not bool(guided.any()):
            return good
        bad: Denoised = self.guide(x_t, t, cond, evaluation)
        pushed = bad.x_0 + self.scale * (good.x_0 - bad.x_0)
        rows = guided.to(x_t.device).view(-1, *[1] * (x_t.ndim - 1))
        pushed = torch.where(rows, pushed, good.x_0)  # beside a guided row one that is not keeps its bits
        return Denoised(pushed, good.variance_mix, good.nfe + bad.nfe)
