"""Thresholding of x_0-hat per sample: none, static, or dynamic (Imagen)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.per_sample import PerSample
from undiffuse.core.rows import per_row, where_rows


@dataclass(frozen=True)
class Thresholds(PerSample):
    """The threshold of each sample; the tensors stay on the CPU.

    Args:
        active: (B,) bool, whether x_0-hat is clipped.
        quantile: (B,) float64, of a dynamic threshold; 0 for a static one.
    """

    active: Tensor | None = None
    quantile: Tensor | None = None

    @property
    def is_static(self) -> bool:
        """Whether all samples have a static threshold."""
        assert self.active is not None and self.quantile is not None
        return bool(self.active.all()) and not bool(self.quantile.any())

    @property
    def is_none(self) -> bool:
        """Whether no sample has a threshold."""
        return self.active is None or not bool(self.active.any())


class ThresholdedDenoiser(Denoiser):
    """``denoiser`` with x_0-hat clipped to the range of the data, per sample.

    A dynamic threshold s is the quantile of |x_0-hat| of the sample, at least 1, in units of half the range around its
    middle: x_0-hat is clipped to [-s, s] and divided by s, so that saturated values move inwards.

    Args:
        denoiser: the denoiser, guided if there is guidance.
        thresholds: of the samples.
        low, high: range of the data.
    Source: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        arXiv:2205.11487, sec. 2.3.
    """

    def __init__(self, denoiser: Denoiser, thresholds: Thresholds, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        self.denoiser, self.thresholds, self.low, self.high = denoiser, thresholds, low, high
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def of_rows(self, rows: Tensor) -> Denoiser:
        return ThresholdedDenoiser(self.denoiser.of_rows(rows), self.thresholds.select(rows), self.low, self.high)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, cond, evaluation)
        return denoised._replace(x_0=self._thresholded(denoised.x_0))

    def _thresholded(self, x_0: Tensor) -> Tensor:
        active, quantile = self.thresholds.active, self.thresholds.quantile
        assert active is not None and quantile is not None
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        size = torch.stack([_size((row - middle) / half, float(q)) for row, q in zip(x_0, quantile, strict=True)])
        scale = per_row(size, x_0)
        shrunk = middle + ((x_0 - middle) / scale).clamp(-half, half)
        dynamic = where_rows(quantile > 0, shrunk, x_0.clamp(self.low, self.high))
        return where_rows(active, dynamic, x_0)


def _size(x_0: Tensor, quantile: float) -> Tensor:
    """The threshold of one sample, at least 1, float64."""
    if not quantile:
        return torch.ones((), dtype=torch.float64, device=x_0.device)
    return torch.quantile(x_0.double().abs().flatten(), quantile).clamp(min=1.0)
