"""Registries of generators and discriminators, built from a configuration and the shape of the data.

A generator is ``forward(z (B, L), cond) -> (B, *shape)``, a discriminator ``forward(x (B, *shape), cond) -> (B,)``
returns logits, larger for real data. Both are conditioned on the class if they are built for classes. This module and
``gan.config`` do not import torch; the modules of the networks are imported when one is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from undiffuse.config import ComponentConfig
from undiffuse.networks.gan.config import (
    DCGANDiscriminatorConfig,
    DCGANGeneratorConfig,
    MLPDiscriminatorConfig,
    MLPGeneratorConfig,
    R3GANDiscriminatorConfig,
    R3GANGeneratorConfig,
    ResidualDiscriminatorConfig,
    ResidualGeneratorConfig,
)
from undiffuse.registry import lookup

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DISCRIMINATORS",
    "DISCRIMINATOR_CONFIGS",
    "GENERATORS",
    "GENERATOR_CONFIGS",
    "build_discriminator",
    "build_generator",
]

GENERATORS = {
    "dcgan": "undiffuse.networks.gan.dcgan:DCGANGenerator",
    "residual": "undiffuse.networks.gan.residual:ResidualGenerator",
    "r3gan": "undiffuse.networks.gan.r3gan:R3GANGenerator",
    "mlp": "undiffuse.networks.gan.mlp:MLPGenerator",
}

GENERATOR_CONFIGS: dict[str, type[ComponentConfig]] = {
    "dcgan": DCGANGeneratorConfig,
    "residual": ResidualGeneratorConfig,
    "r3gan": R3GANGeneratorConfig,
    "mlp": MLPGeneratorConfig,
}

DISCRIMINATORS = {
    "dcgan": "undiffuse.networks.gan.dcgan:DCGANDiscriminator",
    "residual": "undiffuse.networks.gan.residual:ResidualDiscriminator",
    "r3gan": "undiffuse.networks.gan.r3gan:R3GANDiscriminator",
    "mlp": "undiffuse.networks.gan.mlp:MLPDiscriminator",
}

DISCRIMINATOR_CONFIGS: dict[str, type[ComponentConfig]] = {
    "dcgan": DCGANDiscriminatorConfig,
    "residual": ResidualDiscriminatorConfig,
    "r3gan": R3GANDiscriminatorConfig,
    "mlp": MLPDiscriminatorConfig,
}


def build_generator(
    config: ComponentConfig, shape: tuple[int, ...], latent_size: int, num_classes: int = 0
) -> nn.Module:
    """Build the generator of ``config``, initialised from torch's global random state.

    Args:
        config: configuration of a registered generator.
        shape: shape of one example, (C, H, W) or (D,).
        latent_size: L, size of the latents.
        num_classes: number of classes; with 0 ``cond.label`` is ignored.
    Returns:
        A module ``forward(z (B, latent_size), cond) -> (B, *shape)``.
    Raises:
        UsageError: an unknown name, or a shape that the network does not support.
    Example:
        >>> generator = build_generator(DCGANGeneratorConfig(channels=8), (1, 28, 28), latent_size=16)
        >>> generator.base
        (7, 7)
    """
    network: nn.Module = lookup(GENERATORS, config.name, "generator")(config, shape, latent_size, num_classes)
    return network


def build_discriminator(config: ComponentConfig, shape: tuple[int, ...], num_classes: int = 0) -> nn.Module:
    """Build the discriminator of ``config``, initialised from torch's global random state.

    Args:
        config: configuration of a registered discriminator.
        shape: shape of one example, (C, H, W) or (D,).
        num_classes: number of classes; with 0 ``cond.label`` is ignored.
    Returns:
        A module ``forward(x (B, *shape), cond) -> (B,)``.
    Raises:
        UsageError: an unknown name, or a shape that the network does not support.
    """
    network: nn.Module = lookup(DISCRIMINATORS, config.name, "discriminator")(config, shape, num_classes)
    return network
