"""Classifier-free guidance with any condition and one weight."""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import DROP, Condition, DropPolicy, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import ALL_LOG_SNRS, check_guidance_weight, check_interval
from undiffuse.errors import UsageError
from undiffuse.guidance.guided import apply_guidance, build_guidance


class ClassifierFreeGuidance(Denoiser):
    """x_0-hat = x_0-hat(no condition) + w (x_0-hat(condition) - x_0-hat(no condition)), within an interval.

    For w = 1 and outside the interval only the conditional prediction is computed (one NFE); otherwise both predictions
    are computed in one batch (two NFE). In terms of the paper's weight, w = 1 + w_paper. A learned variance is taken
    from the conditional prediction.

    Args:
        denoiser: trained with and without its condition; with a fixed batch size if samples must be independent of the
            batch.
        scale: w, one for all samples or ``(B,)``.
        interval: (smallest, largest) log-SNR of guidance, both included.
        policy: which fields of the condition are dropped in the unconditional prediction.
    Raises:
        UsageError: a weight that is negative or not finite, an empty interval.
    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6; Kynkaanniemi et al. 2024, "Applying Guidance in a Limited
        Interval", arXiv:2404.07724, eq. 5, whose sigma is exp(-log-SNR / 2).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Tensor,
        interval: tuple[float, float] = ALL_LOG_SNRS,
        policy: DropPolicy = DROP,
    ) -> None:
        super().__init__()
        self.denoiser, self.interval, self.policy = denoiser, check_interval(interval), policy
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        for weight in self.scale.flatten().tolist():
            check_guidance_weight(weight)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        if cond is None or cond.empty:
            plain: Denoised = self.denoiser(x_t, t, cond, evaluation)
            return plain
        if self.scale.ndim == 1 and len(self.scale) != len(x_t):
            raise UsageError(f"{len(self.scale)} guidance weights for {len(x_t)} samples; give one, or one per sample")
        guidance = build_guidance([(cond, self.scale)], len(x_t), interval=self.interval, policy=self.policy)
        return apply_guidance(self.denoiser, guidance, x_t, t, evaluation)
