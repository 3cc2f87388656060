"""What can be chosen about each generator and discriminator; no torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from undiffuse.config import ComponentConfig

Positive = Annotated[int, Field(ge=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(gt=0, le=1)]


class _LevelsConfig(ComponentConfig):
    """Feature maps that double in size from level to level.

    Args:
        channels: of the finest level; each coarser one has twice as many.
        max_channels: but no more than this.
    """

    channels: Positive = 64
    max_channels: Positive = 512

    def level_channels(self, level: int) -> int:
        """Channels of a level; 0 is the finest."""
        return min(self.channels << level, max(self.max_channels, self.channels))


class DCGANGeneratorConfig(_LevelsConfig):
    """Transposed convolutions of 4 x 4 with stride 2, batch norm and ReLU, a tanh at the end (Radford et al. 2015).

    Args:
        norm_momentum: share of a batch's statistics in the running ones that sampling uses.
    """

    name: Literal["dcgan"] = "dcgan"
    norm_momentum: Momentum = 0.1


class DCGANDiscriminatorConfig(_LevelsConfig):
    """Convolutions of 4 x 4 with stride 2 and leaky ReLU.

    Args:
        norm: of all levels but the finest, ``batch`` as in the paper, ``layer``, or ``none``; or ``spectral``, the
            weights divided by their largest singular value. A gradient penalty needs one of the last three.
        leak: slope below zero.
    """

    name: Literal["dcgan"] = "dcgan"
    norm: Literal["batch", "layer", "none", "spectral"] = "batch"
    leak: Annotated[float, Field(ge=0, lt=1)] = 0.2


class ResidualGeneratorConfig(_LevelsConfig):
    """Residual blocks that double the map, conditioned on the class by scale and shift of their batch norms (SNGAN,
    BigGAN).

    Args:
        norm_momentum: share of a batch's statistics in the running ones that sampling uses.
        spectral: divide the weights by their largest singular value.
    """

    name: Literal["residual"] = "residual"
    norm_momentum: Momentum = 0.1
    spectral: bool = False


class ResidualDiscriminatorConfig(_LevelsConfig):
    """Residual blocks that halve the map, summed over all pixels at the end, conditioned on the class by projection.

    Args:
        norm: ``spectral`` (Miyato et al. 2018) or ``none``.
    """

    name: Literal["residual"] = "residual"
    norm: Literal["spectral", "none"] = "spectral"


class _R3GANConfig(_LevelsConfig):
    """Blocks without norms: 1 x 1, grouped 3 x 3, 1 x 1 convolutions and a shortcut (Huang et al. 2024).

    Args:
        num_blocks: a level.
        expansion: hidden channels of a block, in units of its channels.
        group_size: hidden channels that a 3 x 3 convolution mixes.
        class_channels: width of the class embedding, where there are classes.
    """

    channels: Positive = 96
    num_blocks: Positive = 2
    expansion: Positive = 2
    group_size: Positive = 16
    class_channels: Positive = 64


class R3GANGeneratorConfig(_R3GANConfig):
    """See R3GAN: a basis of small maps scaled by the latent, grown by bilinear interpolation; no tanh at the end."""

    name: Literal["r3gan"] = "r3gan"


class R3GANDiscriminatorConfig(_R3GANConfig):
    """See R3GAN: the generator's mirror image; the class by projection."""

    name: Literal["r3gan"] = "r3gan"


class _MLPConfig(ComponentConfig):
    """A perceptron with ReLU, for points.

    Args:
        width: of the hidden layers.
        num_layers: hidden layers.
        gain: weights start orthogonal, times this (Metz et al. 2016 take 0.8).
    """

    width: Positive = 128
    num_layers: Positive = 2
    gain: PositiveNumber = 0.8


class MLPGeneratorConfig(_MLPConfig):
    """Two hidden layers of 128, as in the toy of Metz et al. 2016."""

    name: Literal["mlp"] = "mlp"


class MLPDiscriminatorConfig(_MLPConfig):
    """One hidden layer of 128, as in the toy of Metz et al. 2016."""

    name: Literal["mlp"] = "mlp"
    num_layers: Positive = 1
