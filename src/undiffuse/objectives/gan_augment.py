"""Augmentation of a discriminator's input, which keeps it from memorising small data sets.

Data and samples go through the same kinds of transformations with independent random parameters, and gradients flow
through them to the generator. The augmentations do not leak into the samples as long as a fraction of the images stays
unchanged (Karras et al. 2020).
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

#: Images per update of adaptive augmentation: four batches of 64, as in the paper.
_ESTIMATE_IMAGES = 256


class DiscriminatorAugment(nn.Module):
    """The augmentation pipeline, scaled by p if adaptive, then DiffAugment; the identity if both are disabled.

    Args:
        config: probabilities of the pipeline.
        adaptive: configuration of the adaptive p; ``None`` for fixed probabilities.
        policy: DiffAugment policies; empty for none.
        shape: shape of one example.
    Raises:
        UsageError: if the data are points, or ``adaptive`` is set for a pipeline without transformations.
    """

    sign_sum: Tensor
    sign_count: Tensor

    def __init__(
        self, config: AugmentConfig, adaptive: AdaptiveConfig | None, policy: tuple[str, ...], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        if policy and not Space.of_data(shape).is_image:
            raise UsageError(f"system.diff_augment is for images, got examples of shape {shape}; set it to []")
        if adaptive is not None and not config.any:
            raise UsageError("system.adaptive needs system.augment, which is disabled; set system.augment=document")
        self._pipeline = Augmentation(config, shape) if config.any else None
        self._policy = DiffAugment(policy) if policy else None
        self.adaptive = AdaptiveProbability(adaptive) if adaptive is not None else None
        self.register_buffer("sign_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sign_count", torch.zeros((), dtype=torch.int64))

    @property
    def p(self) -> Tensor | None:
        """Scale () of the probabilities; ``None`` if augmentation is not adaptive."""
        return self.adaptive.p if self.adaptive is not None else None

    def forward(self, x: Tensor, rng: StepRandom, what: str) -> Tensor:
        """Transform ``x`` for the discriminator.

        Args:
            x: images (B, C, H, W) in [-1, 1].
            rng: random generator of the step and micro-batch.
            what: name of the random stream, which separates the draws of data and of each phase's samples.
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
        """Accumulate the signs of the discriminator's logits on training data.

        Args:
            real: logits (B,).
        """
        if self.adaptive is not None:
            self.sign_sum += real.sign().double().sum()
            self.sign_count += len(real)

    @torch.no_grad()
    def update_p(self) -> None:
        """Update p once enough logits have been accumulated."""
        count = int(self.sign_count) if self.adaptive is not None else 0
        if self.adaptive is not None and count >= _ESTIMATE_IMAGES:
            self.adaptive.update(self.sign_sum / count, count)
            self.sign_sum.zero_()
            self.sign_count.zero_()
