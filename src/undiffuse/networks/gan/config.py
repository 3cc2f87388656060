"""Configurations of generators and discriminators. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from undiffuse.config import ComponentConfig

Positive = Annotated[int, Field(ge=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(gt=0, le=1)]


class _LevelsConfig(ComponentConfig):
    """Options of networks whose feature maps double in size from level to level.

    Args:
        channels: channels of the finest level; each coarser level has twice as many.
        max_channels: maximum number of channels.
    """

    channels: Positive = 64
    max_channels: Positive = 512

    def level_channels(self, level: int) -> int:
        """Channels of a level; 0 is the finest."""
        return min(self.channels << level, max(self.max_channels, self.channels))


class DCGANGeneratorConfig(_LevelsConfig):
    """4 x 4 transposed convolutions with stride 2, batch norm and ReLU, a tanh at the end (Radford et al. 2015).

    Args:
        norm_momentum: weight of a batch's statistics in the running statistics, which sampling uses.
    """

    name: Literal["dcgan"] = "dcgan"
    norm_momentum: Momentum = 0.1


class DCGANDiscriminatorConfig(_LevelsConfig):
    """4 x 4 convolutions with stride 2 and leaky ReLU.

    Args:
        norm: norm of all levels except the finest: ``batch`` as in the paper, ``layer`` or ``none``; or ``spectral``,
            the weights divided by their largest singular value. A gradient penalty requires one of the last three.
        leak: negative slope of the leaky ReLU.
    """

    name: Literal["dcgan"] = "dcgan"
    norm: Literal["batch", "layer", "none", "spectral"] = "batch"
    leak: Annotated[float, Field(ge=0, lt=1)] = 0.2


class ResidualGeneratorConfig(_LevelsConfig):
    """Upsampling residual blocks with class-conditional batch norm (SNGAN, BigGAN).

    Args:
        norm_momentum: weight of a batch's statistics in the running statistics, which sampling uses.
        spectral: divide the weights by their largest singular value.
    """

    name: Literal["residual"] = "residual"
    norm_momentum: Momentum = 0.1
    spectral: bool = False


class ResidualDiscriminatorConfig(_LevelsConfig):
    """Downsampling residual blocks with global sum pooling, conditioned on the class by projection.

    Args:
        norm: ``spectral`` (Miyato et al. 2018) or ``none``.
    """

    name: Literal["residual"] = "residual"
    norm: Literal["spectral", "none"] = "spectral"


class _R3GANConfig(_LevelsConfig):
    """Blocks without norms: 1 x 1, grouped 3 x 3, 1 x 1 convolutions and a shortcut (Huang et al. 2024).

    Args:
        num_blocks: blocks per level.
        expansion: hidden channels of a block, in units of its channels.
        group_size: channels per group of the 3 x 3 convolutions.
        class_channels: width of the class embedding, if there are classes.
    """

    channels: Positive = 96
    num_blocks: Positive = 2
    expansion: Positive = 2
    group_size: Positive = 16
    class_channels: Positive = 64


class R3GANGeneratorConfig(_R3GANConfig):
    """R3GAN generator: a learned basis of small maps scaled by the latent, bilinear upsampling; no tanh at the end."""

    name: Literal["r3gan"] = "r3gan"


class R3GANDiscriminatorConfig(_R3GANConfig):
    """R3GAN discriminator: the mirror image of the generator, conditioned on the class by projection."""

    name: Literal["r3gan"] = "r3gan"


class _MLPConfig(ComponentConfig):
    """An MLP with ReLU, for points.

    Args:
        width: width of the hidden layers.
        num_layers: number of hidden layers.
        gain: gain of the orthogonal initialisation (0.8 in Metz et al. 2016).
    """

    width: Positive = 128
    num_layers: Positive = 2
    gain: PositiveNumber = 0.8


class MLPGeneratorConfig(_MLPConfig):
    """Two hidden layers of 128, as in the toy experiment of Metz et al. 2016."""

    name: Literal["mlp"] = "mlp"


class MLPDiscriminatorConfig(_MLPConfig):
    """One hidden layer of 128, as in the toy experiment of Metz et al. 2016."""

    name: Literal["mlp"] = "mlp"
    num_layers: Positive = 1
