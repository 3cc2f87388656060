"""Classifier-free guidance: a denoiser that wraps a denoiser and pushes x_0-hat away from the unconditional one."""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import EVERYWHERE, check_interval
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError


class ClassifierFree(Denoiser):
    """x_0-hat = x_0-hat(no condition) + w (x_0-hat(condition) - x_0-hat(no condition)), within an interval.

    w = 1 is the conditional model itself and costs no second evaluation, nor does a time outside of the interval; a
    guided row costs two, which are made together. The paper's own weight counts from 0: its w + 1 is this w. Whatever
    variance the model has learned is taken from its conditional side.

    Args:
        denoiser: trained with and without its condition; in blocks if rows are not to depend on each other.
        scale: w of all rows, or ``(B,)`` of each.
        interval: (smallest, largest) log-SNR that is guided, both included.
    Raises:
        UsageError: a weight that is negative or not finite, an interval without extent.
    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6; Kynkaanniemi et al. 2024, "Applying Guidance in a Limited
        Interval", arXiv:2404.07724, eq. 5, whose sigma is exp(-log-SNR / 2).
    """

    def __init__(self, denoiser: Denoiser, scale: float | Tensor, interval: tuple[float, float] = EVERYWHERE) -> None:
        super().__init__()
        self.denoiser, self.interval = denoiser, check_interval(interval)
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        if not bool((self.scale.isfinite() & (self.scale >= 0)).all()):
            raise UsageError(f"guidance must be a number from 0 on, got {self.scale.tolist()}; 1 is without")

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        scale = self._scales(len(x_t)).to(t.device)
        guided = self._guided(scale, t)
        if cond is None or cond.empty or not bool(guided.any()):
            plain: Denoised = self.denoiser(x_t, t, cond, evaluation)
            return plain
        rows = guided.nonzero().flatten().to(x_t.device)
        return self._push(x_t, t, cond, evaluation, rows, scale)

    def _scales(self, count: int) -> Tensor:
        if self.scale.ndim == 1 and len(self.scale) != count:
            raise UsageError(f"{len(self.scale)} guidance weights for {count} rows; give one, or one a row")
        return self.scale.expand(count)

    def _guided(self, scale: Tensor, t: Tensor) -> Tensor:
        """Which rows take a second evaluation, ``(B,)``."""
        log_snr = self.process.log_snr(t)
        return (scale != 1) & (log_snr >= self.interval[0]) & (log_snr <= self.interval[1])

    def _push(
        self, x_t: Tensor, t: Tensor, cond: Condition, evaluation: Evaluation | None, rows: Tensor, scale: Tensor
    ) -> Denoised:
        count, some = len(x_t), cond.select(rows)
        none = some.drop(torch.ones(len(rows), dtype=torch.bool))
        twice = None if evaluation is None else Evaluation.join([evaluation, evaluation.select(rows)])
        both: Denoised = self.denoiser(
            torch.cat([x_t, x_t[rows]]), torch.cat([t, t[rows]]), Condition.join([cond, none]), twice
        )
        told, untold = both.x_0[:count], both.x_0[count:]
        pushed = untold + per_row(scale[rows], x_t) * (told[rows] - untold)
        mix = both.variance_mix[:count] if both.variance_mix is not None else None
        return Denoised(told.index_copy(0, rows, pushed), mix, 2 * both.nfe)
