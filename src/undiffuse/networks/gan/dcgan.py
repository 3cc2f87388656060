"""DCGAN: a generator of transposed convolutions and a discriminator of strided convolutions.

Source: Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", arXiv:1511.06434, sec. 3 and figure 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.networks.gan.config import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from undiffuse.networks.gan.parts import (
    ClassBatchNorm,
    ProjectionHead,
    base_size,
    check_image_shape,
    conv,
    normal_init,
    num_levels,
    tanh_output,
)


class DCGANGenerator(nn.Module):
    """See ``DCGANGeneratorConfig``; starts from a map of side 4 to 7 (7 for 28 pixels) and crops the output.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        latent_size: L.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(
        self, config: DCGANGeneratorConfig, shape: tuple[int, ...], latent_size: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        check_image_shape(shape, "dcgan")
        self.shape, self.base = shape, base_size(shape)
        widths = [config.level_channels(level) for level in reversed(range(num_levels(shape)))]
        self.width = widths[0]
        self.stem = nn.Linear(latent_size, self.width * self.base[0] * self.base[1])
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(width, out, 4, stride=2, padding=1)
            for width, out in zip(widths, [*widths[1:], shape[0]], strict=True)
        )
        self.norms = nn.ModuleList(ClassBatchNorm(width, num_classes, config.norm_momentum) for width in widths)
        normal_init(self)

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Images (B, C, H, W) in [-1, 1].

        Args:
            z: (B, L), standard normal latents.
            cond: its label (B,) is used, if the network has classes.
        """
        h = self.stem(z).view(len(z), self.width, *self.base)
        for norm, grow in zip(self.norms, self.grow, strict=True):
            h = grow(F.relu(norm(h, cond)))
        return tanh_output(h[:, :, : self.shape[1], : self.shape[2]], z.dtype)


class DCGANDiscriminator(nn.Module):
    """See ``DCGANDiscriminatorConfig``.

    Args:
        config: the configuration.
        shape: (C, H, W) of an image.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(self, config: DCGANDiscriminatorConfig, shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        check_image_shape(shape, "dcgan")
        self.leak, spectral = config.leak, config.norm == "spectral"
        widths = [config.level_channels(level) for level in range(num_levels(shape))]
        inputs = [shape[0], *widths[:-1]]
        self.shrink = nn.ModuleList(
            conv(width, out, 4, stride=2, spectral=spectral) for width, out in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(
            _norm(config.norm, width) if level else nn.Identity() for level, width in enumerate(widths)
        )
        scale = 2 ** len(widths)
        features = widths[-1] * (shape[1] // scale) * (shape[2] // scale)
        self.verdict = ProjectionHead(features, num_classes, spectral=spectral)  # data
        if not spectral:  # spectral layers have singular vectors of their initial weights
            normal_init(self)

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Logits (B,), larger for real data.

        Args:
            x: (B, C, H, W).
            cond: its label (B,) is used, if the network has classes.
        """
        for shrink, norm in zip(self.shrink, self.norms, strict=True):
            x = F.leaky_relu(norm(shrink(x)), self.leak)
        logits: Tensor = self.verdict(x.flatten(1), cond)  # data
        return logits


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()
