"""R3GAN, a modern baseline: residual blocks without normalisation, for use with a regularised relativistic loss.

Implemented from the paper: blocks of 1 x 1, grouped 3 x 3 and 1 x 1 convolutions with leaky ReLU, the last one
zero-initialised and the others scaled down with the number of blocks, so that every block starts as the identity and no
norm is needed (Fixup, Zhang et al. 2019); resampling by bilinear interpolation, channels changed by 1 x 1 convolutions;
a generator that scales a learned basis of small maps, and a discriminator with a depthwise filter on the last map.

Source: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN", arXiv:2501.05441, sec. 4; Zhang
et al. 2019, "Fixup Initialization", arXiv:1901.09321.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.networks.gan.config import R3GANDiscriminatorConfig, R3GANGeneratorConfig
from undiffuse.networks.gan.parts import ClassInput, ProjectionHead, base_size, check_image_shape, num_levels

L = TypeVar("L", nn.Conv2d, nn.Linear)

_LEAK = 0.2
#: Gain that preserves the variance through a leaky ReLU.
_GAIN = math.sqrt(2 / (1 + _LEAK**2))


class R3GANGenerator(nn.Module):
    """See ``R3GANGeneratorConfig``.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        latent_size: L.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(
        self, config: R3GANGeneratorConfig, shape: tuple[int, ...], latent_size: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        check_image_shape(shape, "r3gan")
        self.shape, self.base = shape, base_size(shape)
        widths = [config.level_channels(level) for level in reversed(range(num_levels(shape) + 1))]
        self.classes = ClassInput(num_classes, config.class_channels)
        self.stem = _scaled(nn.Linear(latent_size + self.classes.width, widths[0], bias=False))
        self.basis = nn.Parameter(torch.randn(widths[0], *self.base))
        count = config.num_blocks * len(widths)
        self.changes = nn.ModuleList(_change(width, out) for width, out in pairwise(widths))
        self.levels = nn.ModuleList(_level(width, config, count) for width in widths)
        self.head = _scaled(nn.Conv2d(widths[-1], shape[0], 1))

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Images (B, C, H, W), approximately in [-1, 1].

        Args:
            z: (B, L), standard normal latents.
            cond: its label (B,) is used, if the network has classes.
        """
        h = self.stem(self.classes(z, cond))[:, :, None, None] * self.basis
        h = self.levels[0](h)
        for change, level in zip(self.changes, list(self.levels)[1:], strict=True):
            h = level(_resized(change(h), (2 * h.shape[2], 2 * h.shape[3])))
        out: Tensor = self.head(h)[:, :, : self.shape[1], : self.shape[2]]
        return out.to(z.dtype)


class R3GANDiscriminator(nn.Module):
    """See ``R3GANDiscriminatorConfig``.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(self, config: R3GANDiscriminatorConfig, shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        check_image_shape(shape, "r3gan")
        widths = [config.level_channels(level) for level in range(num_levels(shape) + 1)]
        count = config.num_blocks * len(widths)
        self.stem = _scaled(nn.Conv2d(shape[0], widths[0], 1))
        self.levels = nn.ModuleList(_level(width, config, count) for width in widths)
        self.changes = nn.ModuleList(_change(width, out) for width, out in pairwise(widths))
        self.read = _scaled(nn.Conv2d(widths[-1], widths[-1], base_size(shape), groups=widths[-1], bias=False))
        self.verdict = ProjectionHead(widths[-1], num_classes)  # data
        _scaled(self.verdict.linear)  # data

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Logits (B,), larger for real data.

        Args:
            x: (B, C, H, W).
            cond: its label (B,) is used, if the network has classes.
        """
        h = self.levels[0](self.stem(x))
        for change, level in zip(self.changes, list(self.levels)[1:], strict=True):
            h = level(change(_resized(h, (-(-h.shape[2] // 2), -(-h.shape[3] // 2)))))
        logits: Tensor = self.verdict(self.read(h)[:, :, 0, 0], cond)  # data
        return logits


class _Block(nn.Module):
    """x + conv_1x1(act(grouped_conv_3x3(act(conv_1x1(act(x)))))), the first two convolutions with biases."""

    def __init__(self, channels: int, config: R3GANGeneratorConfig | R3GANDiscriminatorConfig, count: int) -> None:
        super().__init__()
        hidden = channels * config.expansion
        groups = math.gcd(hidden, max(hidden // config.group_size, 1))
        scale = _GAIN * count**-0.25  # Fixup's count^(-1 / (2 m - 2)) for m = 3 layers per branch
        self.first = _scaled(nn.Conv2d(channels, hidden, 1), scale)
        self.middle = _scaled(nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups), scale)
        self.last = _scaled(nn.Conv2d(hidden, channels, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(x, _LEAK))
        h = self.middle(F.leaky_relu(h, _LEAK))
        out: Tensor = x + self.last(F.leaky_relu(h, _LEAK))
        return out


def _level(channels: int, config: R3GANGeneratorConfig | R3GANDiscriminatorConfig, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels, config, count) for _ in range(config.num_blocks)))


def _change(channels: int, out_channels: int) -> nn.Module:
    """A 1 x 1 convolution if the number of channels changes, otherwise the identity."""
    same = channels == out_channels
    return nn.Identity() if same else _scaled(nn.Conv2d(channels, out_channels, 1, bias=False))


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _scaled(layer: L, gain: float = 1.0) -> L:
    """Initialise weights from N(0, gain^2 / inputs) and biases with zero."""
    inputs = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
