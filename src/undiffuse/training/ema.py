"""Exponential moving average of weights.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 (half-life in images, ramped up at the start).
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from undiffuse.training.config import EMAConfig

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """Keeps ``average``, a copy of a module whose parameters follow it slowly; buffers are copied.

    Args:
        module: what is trained.
        config: half-life and ramp-up.
    """

    def __init__(self, module: M, config: EMAConfig) -> None:
        self.config = config
        self.average = copy.deepcopy(module).requires_grad_(False).eval()

    def decay(self, images: int, batch_images: int) -> float:
        """Share of the average that survives a step; ``images`` were seen before it."""
        halflife = float(self.config.halflife_images)
        if self.config.rampup is not None:
            halflife = min(halflife, images * self.config.rampup)
        return float(0.5 ** (batch_images / max(halflife, 1e-8)))

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch_images: int) -> None:
        """One step towards the module's weights."""
        weight = 1 - self.decay(images, batch_images)
        averages: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = [parameter.detach() for parameter in module.parameters()]
        torch._foreach_lerp_(averages, current, weight)
        for target, source in zip(self.average.buffers(), module.buffers(), strict=True):
            target.copy_(source)
