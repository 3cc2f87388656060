"""Adaptive discriminator augmentation (ADA): the probability is controlled by the discriminator's overfitting.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", arXiv:2006.06676, section 3.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.config import FrozenModel


class AdaptiveConfig(FrozenModel):
    """Target and speed of the adaptation.

    Args:
        target: mean sign of the discriminator's output on real training images: 0 if it cannot distinguish them from
            generated ones, 1 if it always can.
        speed_images: number of images in which the probability can rise from 0 to 1.
        start: initial probability.
    """

    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    speed_images: Annotated[int, Field(ge=1)] = 500_000
    start: Annotated[float, Field(ge=0, le=1)] = 0.0


class AdaptiveProbability(nn.Module):
    """The factor p for the probabilities of a pipeline; a buffer, so it is saved with the weights.

    p increases by images / speed_images while r_t = E[sign(D(real))] is above the target, decreases while it is below,
    and is clamped to [0, 1].

    Example:
        >>> adaptive = AdaptiveProbability()
        >>> adaptive.update(sign_mean=0.9, images=5_000)
        >>> round(float(adaptive.p), 6)
        0.01
    """

    p: Tensor

    def __init__(self, config: AdaptiveConfig | None = None) -> None:
        super().__init__()
        self.config = config or AdaptiveConfig()
        self.register_buffer("p", torch.tensor(self.config.start, dtype=torch.float64))

    @torch.no_grad()
    def update(self, sign_mean: float | Tensor, images: int) -> None:
        """Update p.

        Args:
            sign_mean: r_t over the ``images`` real images since the last call, averaged over all ranks.
            images: at least 0.
        """
        above = torch.as_tensor(sign_mean, dtype=self.p.dtype, device=self.p.device) - self.config.target
        self.p.add_(above.sign() * (images / self.config.speed_images)).clamp_(0, 1)
