"""Residual generator and discriminator of SNGAN and BigGAN.

Source: Miyato et al. 2018, arXiv:1802.05957, appendix B.4 and figure 14 (blocks and their resampling); Miyato & Koyama
2018, arXiv:1802.05637 (conditional batch norm and projection discriminator); Brock et al. 2019, arXiv:1809.11096.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.networks.gan.config import ResidualDiscriminatorConfig, ResidualGeneratorConfig
from undiffuse.networks.gan.parts import (
    ClassBatchNorm,
    ProjectionHead,
    base_size,
    check_image_shape,
    conv,
    doubled,
    halved,
    linear,
    num_levels,
    tanh_output,
)


class ResidualGenerator(nn.Module):
    """See ``ResidualGeneratorConfig``.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        latent_size: L.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(
        self, config: ResidualGeneratorConfig, shape: tuple[int, ...], latent_size: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        check_image_shape(shape, "residual")
        self.shape, self.base = shape, base_size(shape)
        widths = [config.level_channels(level) for level in reversed(range(num_levels(shape) + 1))]
        self.width = widths[0]
        self.stem = linear(latent_size, self.width * self.base[0] * self.base[1], spectral=config.spectral)
        self.blocks = nn.ModuleList(_UpBlock(width, out, num_classes, config) for width, out in pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1], momentum=config.norm_momentum)
        self.head = conv(widths[-1], shape[0], spectral=config.spectral)

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Images (B, C, H, W) in [-1, 1].

        Args:
            z: (B, L), standard normal latents.
            cond: its label (B,) is used, if the network has classes.
        """
        h = self.stem(z).view(len(z), self.width, *self.base)
        for block in self.blocks:
            h = block(h, cond)
        h = self.head(F.relu(self.norm(h)))
        return tanh_output(h[:, :, : self.shape[1], : self.shape[2]], z.dtype)


class _UpBlock(nn.Module):
    """conv(ReLU(norm(conv(double(ReLU(norm(x))))))) + conv_1x1(double(x)), with class-conditional norms."""

    def __init__(self, channels: int, out_channels: int, num_classes: int, config: ResidualGeneratorConfig) -> None:
        super().__init__()
        self.norm1 = ClassBatchNorm(channels, num_classes, config.norm_momentum)
        self.norm2 = ClassBatchNorm(out_channels, num_classes, config.norm_momentum)
        self.conv1 = conv(channels, out_channels, spectral=config.spectral)
        self.conv2 = conv(out_channels, out_channels, spectral=config.spectral)
        self.shortcut = conv(channels, out_channels, 1, spectral=config.spectral)

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        h = self.conv1(doubled(F.relu(self.norm1(x, cond))))
        h = self.conv2(F.relu(self.norm2(h, cond)))
        out: Tensor = h + doubled(self.shortcut(x))  # 1 x 1 convolution and upsampling commute; this order is cheaper
        return out


class ResidualDiscriminator(nn.Module):
    """See ``ResidualDiscriminatorConfig``.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(self, config: ResidualDiscriminatorConfig, shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        check_image_shape(shape, "residual")
        spectral = config.norm == "spectral"
        widths = [config.level_channels(level) for level in range(num_levels(shape))]
        inputs = [shape[0], *widths[:-1]]
        blocks = [
            _DownBlock(width, out, first=level == 0, spectral=spectral)
            for level, (width, out) in enumerate(zip(inputs, widths, strict=True))
        ]
        self.blocks = nn.ModuleList([*blocks, _DownBlock(widths[-1], widths[-1], halve=False, spectral=spectral)])
        self.verdict = ProjectionHead(widths[-1], num_classes, spectral=spectral)  # data

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Logits (B,), larger for real data.

        Args:
            x: (B, C, H, W).
            cond: its label (B,) is used, if the network has classes.
        """
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.verdict(F.relu(x).sum(dim=(2, 3)), cond)  # data
        return logits


class _DownBlock(nn.Module):
    """halve(conv(ReLU(conv(ReLU(x))))) + halve(conv_1x1(x)); the first block has no ReLU on its input, the image."""

    def __init__(
        self, channels: int, out_channels: int, *, first: bool = False, halve: bool = True, spectral: bool = False
    ) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv1 = conv(channels, out_channels, spectral=spectral)
        self.conv2 = conv(out_channels, out_channels, spectral=spectral)
        changes = halve or channels != out_channels
        self.shortcut = conv(channels, out_channels, 1, spectral=spectral) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.halve:
            same_size: Tensor = h + self.shortcut(x)
            return same_size
        out: Tensor = halved(h) + self.shortcut(halved(x))
        return out
