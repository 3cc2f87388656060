"""Common parts of generators and discriminators: map sizes, class labels, class-conditional batch norm, last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.networks.gan.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear
from undiffuse.networks.layers import at_least_float32

#: Largest side of the coarsest map.
_LARGEST_BASE = 7


def check_image_shape(shape: tuple[int, ...], network: str) -> None:
    """Check for the shape of an image of at least 8 x 8 pixels.

    Args:
        shape: shape of one example, (C, H, W) for an image.
        network: name of the network, for the message.
    Raises:
        UsageError: any other shape.
    """
    if not Space.of_data(shape).is_spatial or min(shape[1:]) < 8:
        raise UsageError(
            f"network {network!r} takes images (C, H, W) of at least 8 x 8, got examples of shape {tuple(shape)}; "
            "use network 'mlp' for points, or a larger data.size"
        )


def num_levels(shape: tuple[int, ...]) -> int:
    """Number of times an image is halved until its shorter side is at most 7, at least once."""
    count, side = 1, -(-min(shape[1:]) // 2)
    while side > _LARGEST_BASE:
        count, side = count + 1, -(-side // 2)
    return count


def base_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of the coarsest map; doubled ``num_levels`` times, it is cropped to the image."""
    scale = 2 ** num_levels(shape)
    return -(-shape[1] // scale), -(-shape[2] // scale)


def label_indices(cond: Condition, num_classes: int, count: int, device: torch.device) -> Tensor:
    """(B,) indices into an embedding of ``num_classes + 1`` rows; the last is "no class" (label -1, or no labels).

    Args:
        cond: its label (B,) in [-1, num_classes), or None, is used.
        num_classes: number of classes, at least 1.
        count: B.
        device: device of the result.
    """
    if cond.label is None:
        return torch.full((count,), num_classes, device=device)
    label = cond.label.to(device).long()
    return torch.where(label < 0, num_classes, label)


def conv(channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, spectral: bool = False) -> nn.Conv2d:
    """A convolution, 4 x 4 with stride 2 or one that keeps the size of the map.

    Args:
        channels: input channels.
        out_channels: output channels.
        kernel: kernel size, 4 or odd.
        stride: 2 for a kernel size of 4, else 1.
        spectral: use spectral normalisation.
    """
    padding = 1 if kernel == 4 else kernel // 2
    conv_class = SpectralConv2d if spectral else nn.Conv2d
    return conv_class(channels, out_channels, kernel, stride=stride, padding=padding)


def linear(channels: int, out_channels: int, *, spectral: bool = False) -> nn.Linear:
    """A linear layer.

    Args:
        channels: input channels.
        out_channels: output channels.
        spectral: use spectral normalisation.
    """
    return SpectralLinear(channels, out_channels) if spectral else nn.Linear(channels, out_channels)


class ClassBatchNorm(nn.Module):
    """Batch norm whose scale and shift depend on the class; plain batch norm without classes.

    Sampling uses running statistics, so that an image does not depend on the rest of its batch.

    Args:
        channels: C.
        num_classes: number of classes; 0 for none.
        momentum: weight of a batch's statistics in the running statistics, in (0, 1].
    Source: Dumoulin et al. 2017, arXiv:1610.07629; Miyato & Koyama 2018, arXiv:1802.05637, sec. 4.
    """

    def __init__(self, channels: int, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.norm = nn.BatchNorm2d(channels, momentum=momentum, affine=num_classes == 0)
        self.told = nn.Embedding(num_classes + 1, 2 * channels) if num_classes else None  # data
        if self.told is not None:  # data
            nn.init.zeros_(self.told.weight)  # data

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """The normalised map, (B, C, H, W).

        Args:
            x: (B, C, H, W).
            cond: its label (B,) is used, if there are classes.
        """
        h: Tensor = self.norm(x)
        if self.told is None:  # data
            return h
        index = label_indices(cond, self.num_classes, len(x), x.device)
        scale, shift = self.told(index)[:, :, None, None].chunk(2, dim=1)  # data
        return torch.addcmul(shift.to(h.dtype), h, 1 + scale.to(h.dtype))


class ProjectionHead(nn.Module):
    """The last layer of a discriminator: w . phi + b + V_y . phi, ``(B, F) -> (B,)``; without classes w . phi + b.

    Args:
        features: F.
        num_classes: number of classes; 0 for none.
        spectral: use spectral normalisation.
    Source: Miyato & Koyama 2018, "cGANs with Projection Discriminator", arXiv:1802.05637, eq. 4.
    """

    def __init__(self, features: int, num_classes: int, *, spectral: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = linear(features, 1, spectral=spectral)
        self.classes: nn.Embedding | None = None
        if num_classes:
            embedding_class = SpectralEmbedding if spectral else nn.Embedding
            self.classes = embedding_class(num_classes + 1, features)

    def forward(self, features: Tensor, cond: Condition) -> Tensor:
        """Logits (B,), in the dtype of the weights.

        Args:
            features: (B, F).
            cond: its label (B,) is used, if there are classes.
        """
        with torch.autocast(features.device.type, enabled=False):  # logits are not rounded to bfloat16
            features = features.to(self.linear.weight.dtype)
            out: Tensor = self.linear(features)[:, 0]
            if self.classes is not None:
                index = label_indices(cond, self.num_classes, len(features), features.device)
                out = out + (self.classes(index) * features).sum(1)
        return out


class ClassInput(nn.Module):
    """The latent concatenated with a class embedding, ``(B, L) -> (B, L + width)``; unchanged without classes.

    Args:
        num_classes: number of classes; 0 for none.
        width: width of the class embedding.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes, self.width = num_classes, width if num_classes else 0
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """The latent and its class embedding, (B, L + width).

        Args:
            z: (B, L).
            cond: its label (B,) is used, if there are classes.
        """
        if self.classes is None:
            return z
        index = label_indices(cond, self.num_classes, len(z), z.device)
        return torch.cat([z, self.classes(index).to(z.dtype)], dim=1)


def halved(x: Tensor) -> Tensor:
    """2 x 2 average pooling; windows at an odd border are averaged over their valid pixels.

    Args:
        x: (B, C, H, W).
    """
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2.

    Args:
        x: (B, C, H, W).
    """
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def tanh_output(x: Tensor, dtype: torch.dtype) -> Tensor:
    """tanh, computed in float32 or higher precision.

    Args:
        x: any shape.
        dtype: dtype of the result.
    """
    return at_least_float32(x).tanh().to(dtype)


def normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Initialise weights of convolutions and linear layers from N(0, std^2) and biases with zero, as in DCGAN.

    Args:
        module: the module, whose layers are initialised in place.
        std: standard deviation of the weights.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
