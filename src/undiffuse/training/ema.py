"""Exponential moving average of weights.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 (half-life in images, ramped up at the start).
"""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from undiffuse.models.base import GenerativeModel
from undiffuse.models.parts import averaged_copy
from undiffuse.training.config import EMAConfig
from undiffuse.training.posthoc import PowerAverages

M = TypeVar("M", bound=GenerativeModel)


class EMA(Generic[M]):
    """Maintains ``average``, a copy of a model with exponentially averaged parameters.

    Running statistics of batch norms are averaged like the weights, since the statistics of the newest weights do not
    match averaged weights; other buffers are copied.

    Args:
        module: the model to train; its frozen parts are shared, not averaged.
        config: half-life and ramp-up, and whether to track averages of other lengths (``posthoc``).
    """

    def __init__(self, module: M, config: EMAConfig) -> None:
        self.config = config
        self.average = averaged_copy(module)
        self.posthoc = PowerAverages(module, config.posthoc) if config.posthoc is not None else None

    def decay(self, images: int, batch_images: int) -> float:
        """Decay factor of the average in a step; ``images`` is the number of images seen before it."""
        halflife = float(self.config.halflife_images)
        if self.config.rampup is not None:
            halflife = min(halflife, images * self.config.rampup)
        return float(0.5 ** (batch_images / max(halflife, 1e-8)))

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch_images: int) -> None:
        """Update the average with the module's weights."""
        weight = 1 - self.decay(images, batch_images)
        pairs = zip(self.average.parameters(), module.parameters(), strict=True)
        # guides are frozen, and shared parts are the same tensors
        trained = [
            (target, source.detach()) for target, source in pairs if source.requires_grad and target is not source
        ]
        torch._foreach_lerp_([target for target, _ in trained], [source for _, source in trained], weight)
        for averaged, current in zip(self.average.modules(), module.modules(), strict=True):
            _update_buffers(averaged, current, weight)
        if self.posthoc is not None:
            self.posthoc.update(module, images, batch_images)


def _update_buffers(averaged: nn.Module, current: nn.Module, weight: float) -> None:
    """Update the direct buffers of a module, without those of its children."""
    if averaged is current:
        return
    has_statistics = isinstance(averaged, _BatchNorm)
    for target, source in zip(averaged.buffers(recurse=False), current.buffers(recurse=False), strict=True):
        if has_statistics and target.is_floating_point():
            target.lerp_(source, weight)
        else:
            target.copy_(source)
