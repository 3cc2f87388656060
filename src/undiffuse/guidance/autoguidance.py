"""Autoguidance: a denoiser pushed away from the prediction of a worse model of the same data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import ALL_LOG_SNRS, check_autoguidance_weight, check_interval
from undiffuse.core.per_sample import PerSample
from undiffuse.core.rows import per_row, where_rows


class Autoguided(Denoiser):
    """x_0-hat = x_0-hat(guide) + w (x_0-hat(model) - x_0-hat(guide)), at the NFE of both.

    Where the model is unsure its guide is more so, in the same direction; extrapolating from guide to model leads to
    where the data are dense. It needs no classes. w = 1 is the model itself. A learned variance is the model's own. A
    batch none of whose samples lies within the interval costs the model alone.

    Args:
        denoiser: the model.
        guide: the worse one, of the same process and condition, such as the same network earlier in its training.
        scale: w for all samples, or ``(B,)`` of each.
        interval: (smallest, largest) log-SNR that is guided, both included; for all samples, or ``(B,)`` of each.
    Raises:
        UsageError: a weight that is negative or not finite, an interval without extent.
    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", arXiv:2406.02507, eq. 5; the
        interval is that of Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser,
        scale: float | Tensor,
        interval: tuple[float, float] | tuple[Tensor, Tensor] = ALL_LOG_SNRS,
    ) -> None:
        super().__init__()
        self.denoiser, self.guide = denoiser, guide
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range
        self.scale, self.low, self.high = (torch.as_tensor(one, dtype=torch.float64) for one in (scale, *interval))
        for weight in self.scale.flatten().tolist():
            check_autoguidance_weight(weight)
        for low, high in zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True):
            check_interval((low, high))

    def of_rows(self, rows: Tensor) -> Denoiser:
        scale, low, high = (one[rows] if one.ndim else one for one in (self.scale, self.low, self.high))
        return Autoguided(self.denoiser.of_rows(rows), self.guide.of_rows(rows), scale, (low, high))

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        good: Denoised = self.denoiser(x_t, t, cond, evaluation)
        log_snr = self.process.log_snr(t).cpu()
        guided = (self.scale != 1) & (log_snr >= self.low) & (log_snr <= self.high)
        if not bool(guided.any()):
            return good
        # with weights per sample the guide is evaluated for guided ones alone, with one weight for the whole batch
        rows = guided.nonzero().flatten() if self.scale.ndim else torch.arange(len(t))
        here, some = rows.to(x_t.device), guided[rows].to(x_t.device)
        conditions, requests = (None if one is None else one.select(rows) for one in (cond, evaluation))
        bad: Denoised = self.guide.of_rows(rows)(x_t[here], t[here], conditions, requests)
        pushed = bad.x_0 + per_row(self.scale.expand(len(t))[rows], x_t) * (good.x_0[here] - bad.x_0)
        pushed = where_rows(some, pushed, good.x_0[here])  # a sample that is not guided keeps its bits
        cost = torch.as_tensor(bad.nfe, device=x_t.device) * some
        nfe = torch.as_tensor(good.nfe, device=x_t.device).expand(len(t)).index_add(0, here, cost)
        return Denoised(good.x_0.index_copy(0, here, pushed), good.variance_mix, nfe)


@dataclass(frozen=True)
class AutoguidanceWeights(PerSample):
    """Autoguidance per sample: weights and the log-SNRs between which each is guided, (B,) float64 on the CPU."""

    weight: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def at_work(self) -> bool:
        """Whether any sample is guided at any time."""
        return self.weight is not None and bool((self.weight != 1).any())

    def to(self, device: torch.device | str) -> AutoguidanceWeights:
        """Per-sample numbers stay where they are."""
        return self
