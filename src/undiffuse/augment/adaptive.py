"""Adaptive discriminator augmentation: how often to transform, steered by how far the discriminator overfits.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", arXiv:2006.06676, section 3.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.config import FrozenModel


class AdaptiveConfig(FrozenModel):
    """How fast the probability moves, and towards what.

    Args:
        target: mean sign of the discriminator's output on real training images, 0 where it cannot tell them from
            generated ones and 1 where it always can.
        speed_images: images in which the probability moves from 0 to 1 at most.
        start: the probability at first.
    """

    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    speed_images: Annotated[int, Field(ge=1)] = 500_000
    start: Annotated[float, Field(ge=0, le=1)] = 0.0


class AdaptiveProbability(nn.Module):
    """p, by which the probabilities of a pipeline are multiplied; a buffer, so it is saved with the weights.

    It rises while r_t = E[sign(D(real))] is above the target and falls while it is below, by images / speed_images, and
    stays in [0, 1].

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
        """Move p.

        Args:
            sign_mean: r_t over the ``images`` real images since the last call, over all ranks alike.
            images: at least 0.
        """
        above = torch.as_tensor(sign_mean, dtype=self.p.dtype, device=self.p.device) - self.config.target
        self.p.add_(above.sign() * (images / self.config.speed_images)).clamp_(0, 1)
