"""Autoguidance: guide a denoiser away from the prediction of a worse model of the same data."""

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

    The errors of model and guide have similar directions, those of the guide being larger; extrapolation from guide to
    model moves samples towards regions of high density. No classes are needed. w = 1 is the unguided model. A learned
    variance is taken from the model. The guide is not evaluated if no sample of the batch is within the interval.

    Args:
        denoiser: the model.
        guide: the worse model, with the same process and condition, such as the same network earlier in its training.
        scale: w, one for all samples or ``(B,)``.
        interval: (smallest, largest) log-SNR of guidance, both included; one for all samples or ``(B,)``.
    Raises:
        UsageError: a weight that is negative or not finite, an empty interval.
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
        self.scale, self.low, self.high = (torch.as_tensor(value, dtype=torch.float64) for value in (scale, *interval))
        for weight in self.scale.flatten().tolist():
            check_autoguidance_weight(weight)
        for low, high in zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True):
            check_interval((low, high))

    def of_rows(self, rows: Tensor) -> Denoiser:
        scale, low, high = (value[rows] if value.ndim else value for value in (self.scale, self.low, self.high))
        return Autoguided(self.denoiser.of_rows(rows), self.guide.of_rows(rows), scale, (low, high))

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        model: Denoised = self.denoiser(x_t, t, cond, evaluation)
        log_snr = self.process.log_snr(t).cpu()
        guided = (self.scale != 1) & (log_snr >= self.low) & (log_snr <= self.high)
        if not bool(guided.any()):
            return model
        # with weights per sample the guide is evaluated for guided samples only, otherwise for the whole batch
        rows = guided.nonzero().flatten() if self.scale.ndim else torch.arange(len(t))
        indices, mask = rows.to(x_t.device), guided[rows].to(x_t.device)
        condition = None if cond is None else cond.select(rows)
        inputs = None if evaluation is None else evaluation.select(rows)
        guide: Denoised = self.guide.of_rows(rows)(x_t[indices], t[indices], condition, inputs)
        x_0 = guide.x_0 + per_row(self.scale.expand(len(t))[rows], x_t) * (model.x_0[indices] - guide.x_0)
        x_0 = where_rows(mask, x_0, model.x_0[indices])  # unguided samples are bitwise unchanged
        guide_nfe = torch.as_tensor(guide.nfe, device=x_t.device) * mask
        nfe = torch.as_tensor(model.nfe, device=x_t.device).expand(len(t)).index_add(0, indices, guide_nfe)
        return Denoised(model.x_0.index_copy(0, indices, x_0), model.variance_mix, nfe)


@dataclass(frozen=True)
class AutoguidanceWeights(PerSample):
    """Per-sample weights and log-SNR intervals of autoguidance, (B,) float64 on the CPU."""

    weight: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether any sample is guided at any time."""
        return self.weight is not None and bool((self.weight != 1).any())

    def to(self, device: torch.device | str) -> AutoguidanceWeights:
        """Returns ``self``: the weights stay on the CPU."""
        return self
