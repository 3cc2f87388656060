"""The denoising error as a function of the noise level.

    e(lambda) = E ||eps - eps-hat(x_t)||^2 / D = exp(lambda) E ||x_0 - x_0-hat||^2 / D

at the log-SNR lambda: the integrand of the bound in continuous time, -log p(x_0) <= ... + D/2 int e(lambda) d lambda.
It does not depend on the process, the parameterization or the weighting, so any two models can be compared.
For independent Gaussian data of variance v the exact denoiser has e = v SNR / (1 + v SNR).

Source: Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630, eqs. 17-19; Guo, Shamai and Verdu 2005,
"Mutual Information and Minimum Mean-Square Error in Gaussian Channels", eq. 1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.rows import mean_over_features


class HasDenoiser(Protocol):
    """A model with a denoiser, such as a ``models.base.DenoisingModel``."""

    def denoiser(self, precision: str | None = None) -> Denoiser: ...


class NumberedNoise(Protocol):
    """Standard normal noise indexed by a draw number, such as a ``samplers.noise.NoiseSource``."""

    def numbered(self, like: Tensor, number: int) -> Tensor:
        """Noise shaped like a tensor.

        Args:
            like: (B, ...) whose shape, dtype and device are taken.
            number: of the draw, at least 0.
        """
        ...


@torch.no_grad()
def loss_by_level(
    system: HasDenoiser, x_0: Tensor, log_snr: Tensor, noise: NumberedNoise, cond: Condition | None = None
) -> Tensor:
    """Squared error of eps-hat at each level, a mean over the elements of each sample.

    Args:
        system: its denoiser is evaluated in full precision, once per level.
        x_0: (B, ...) clean data in [-1, 1].
        log_snr: (L,) finite levels, within the range that the model was trained on.
        noise: level ``i`` uses draw number ``i``, so the same samples get the same noise in every call.
        cond: (B, ...) fields that the denoiser is conditioned on; None is unconditional.
    Returns:
        (L, B) float64, on the CPU.
    """
    denoiser = system.denoiser("fp32")
    errors = []
    for number, level in enumerate(log_snr.double().tolist()):
        same = torch.full((len(x_0),), level, dtype=torch.float64, device=x_0.device)
        t = denoiser.process.time_of_log_snr(same)
        denoised: Denoised = denoiser(denoiser.process.diffuse(x_0, noise.numbered(x_0, number), t), t, cond)
        reached = denoiser.process.log_snr(t)  # levels outside the process's range are clamped to it
        errors.append(torch.exp(reached) * mean_over_features((x_0.double() - denoised.x_0.double()) ** 2))
    return torch.stack(errors).cpu() if errors else torch.empty(0, len(x_0), dtype=torch.float64)
