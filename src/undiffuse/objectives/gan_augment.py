"""What a discriminator sees instead of images as they are, so that it cannot memorise few of them.

Data and samples go through the same transformations, each with its own numbers, and gradients reach the generator
through them; so what is made need not be transformed, as long as some images are left alone (Karras et al. 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.augment.adaptive import AdaptiveConfig, AdaptiveProbability
from undiffuse.augment.config import AugmentConfig
from undiffuse.augment.differentiable import DiffAugment
from undiffuse.augment.pipeline import Augmentation
from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.errors import UsageError

#: Images whose logits make one estimate of adaptive augmentation: four batches of 64, as in the paper.
_ESTIMATE_IMAGES = 256


class DiscriminatorAugment(nn.Module):
    """The pipeline, scaled by p where it adapts, then DiffAugment; the identity where there is neither.

    Args:
        config: the pipeline's probabilities.
        adaptive: how p is steered; ``None`` leaves the probabilities as they are.
        policy: of DiffAugment; empty for none.
        shape: of one example.
    Raises:
        UsageError: points, or an adaptive pipeline without transformations.
    """

    sign_sum: Tensor
    sign_count: Tensor

    def __init__(
        self, config: AugmentConfig, adaptive: AdaptiveConfig | None, policy: tuple[str, ...], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        if policy and not Space.of_data(shape).is_image:
            raise UsageError(f"system.diff_augment is for images, got examples of shape {shape}; say []")
        if adaptive is not None and not config.any:
            raise UsageError("system.adaptive steers system.augment, which does nothing; say system.augment=document")
        self._pipeline = Augmentation(config, shape) if config.any else None
        self._policy = DiffAugment(policy) if policy else None
        self.adaptive = AdaptiveProbability(adaptive) if adaptive is not None else None
        self.register_buffer("sign_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sign_count", torch.zeros((), dtype=torch.int64))

    @property
    def p(self) -> Tensor | None:
        """() by which probabilities are multiplied; ``None`` where nothing adapts."""
        return self.adaptive.p if self.adaptive is not None else None

    def forward(self, x: Tensor, rng: StepRandom, what: str) -> Tensor:
        """x transformed, for the discriminator.

        Args:
            x: images (B, C, H, W) in [-1, 1].
            rng: of the step and micro-batch.
            what: keeps the draws of data and of each phase's samples apart.
        """
        source = rng.branch(what)
        if self._pipeline is not None:
            scale = 1.0 if self.p is None else float(self.p)
            x = self._pipeline(x, self._pipeline.draw(source, len(x), scale))
        if self._policy is not None:
            x = self._policy(x, self._policy.draw(source, len(x), what))
        return x

    @torch.no_grad()
    def record(self, real: Tensor) -> None:
        """Count the signs of the discriminator's logits on training data.

        Args:
            real: logits (B,).
        """
        if self.adaptive is not None:
            self.sign_sum += real.sign().double().sum()
            self.sign_count += len(real)

    @torch.no_grad()
    def update_p(self) -> None:
        """Move p once enough has been counted."""
        count = int(self.sign_count) if self.adaptive is not None else 0
        if self.adaptive is not None and count >= _ESTIMATE_IMAGES:
            self.adaptive.update(self.sign_sum / count, count)
            self.sign_sum.zero_()
            self.sign_count.zero_()
