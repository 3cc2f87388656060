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
    """Keeps ``average``, a copy of a model whose parameters follow it slowly.

    Running statistics of batch norms are averaged as the weights are that they belong to, for those of the newest
    weights do not fit older ones; other buffers are copied.

    Args:
        module: what is trained; parts of it that no average is taken of are shared.
        config: half-life and ramp-up, and whether to keep averages of other lengths (``posthoc``).
    """

    def __init__(self, module: M, config: EMAConfig) -> None:
        self.config = config
        self.average = averaged_copy(module)
        self.posthoc = PowerAverages(module, config.posthoc) if config.posthoc is not None else None

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
        pairs = zip(self.average.parameters(), module.parameters(), strict=True)
        # a kept guide stands still, a shared part is itself
        moving = [(mine, its.detach()) for mine, its in pairs if its.requires_grad and mine is not its]
        torch._foreach_lerp_([mine for mine, _ in moving], [its for _, its in moving], weight)
        for target, source in zip(self.average.modules(), module.modules(), strict=True):
            _follow_buffers(target, source, weight)
        if self.posthoc is not None:
            self.posthoc.update(module, images, batch_images)


def _follow_buffers(target: nn.Module, source: nn.Module, weight: float) -> None:
    """Of the modules themselves, not of those inside them."""
    if target is source:
        return
    averaged = isinstance(target, _BatchNorm)
    for mine, its in zip(target.buffers(recurse=False), source.buffers(recurse=False), strict=True):
        if averaged and mine.is_floating_point():
            mine.lerp_(its, weight)
        else:
            mine.copy_(its)
