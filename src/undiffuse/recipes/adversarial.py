"""Recipes for generative adversarial networks, for comparison with diffusion models on the same data.

A GAN step updates two networks, and WGAN-GP takes five critic steps per generator step, so the fair comparison is at
equal training time.
"""

from __future__ import annotations

from typing import Any

from undiffuse.data.config import GaussianRingConfig, IdxConfig
from undiffuse.losses.adversarial import OBJECTIVES
from undiffuse.networks.gan.config import (
    DCGANDiscriminatorConfig,
    DCGANGeneratorConfig,
    MLPDiscriminatorConfig,
    MLPGeneratorConfig,
    R3GANDiscriminatorConfig,
    R3GANGeneratorConfig,
)
from undiffuse.objectives.gan import GanConfig
from undiffuse.recipes.parts import bedroom64, row
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

_INTERVALS: dict[str, Any] = {
    "log_every_images": 3_200,
    "validate_every_images": 20_000,
    "preview_every_images": 20_000,
    "checkpoint_every_images": 50_000,
}


def dcgan_mnist() -> RunConfig:
    """DCGAN (Radford et al. 2015): Adam at 2e-4 with beta1 0.5, a quarter of the paper's generator channels."""
    return RunConfig(
        recipe="dcgan-mnist",
        data=IdxConfig(path="data/mnist", validation_fraction=0.02),
        system=GanConfig(
            generator=DCGANGeneratorConfig(channels=32, max_channels=128),
            discriminator=DCGANDiscriminatorConfig(channels=32, max_channels=128),
            latent_size=64,
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999), clip_norm=None),
        ema=EMAConfig(halflife_images=10_000),
        num_images=600_000,
        batch_images=64,
        **_INTERVALS,
    )


def wgan_gp_mnist() -> RunConfig:
    """WGAN with gradient penalty (Gulrajani et al. 2017): five critic steps per generator step."""
    return RunConfig(
        recipe="wgan-gp-mnist",
        data=IdxConfig(path="data/mnist", validation_fraction=0.02),
        system=GanConfig(
            objective=row(OBJECTIVES, "wgan_gp"),
            generator=DCGANGeneratorConfig(channels=32, max_channels=128),
            discriminator=DCGANDiscriminatorConfig(channels=32, max_channels=128, norm="layer"),
            latent_size=64,
            discriminator_steps=5,
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.0, 0.9), clip_norm=None),
        ema=EMAConfig(halflife_images=30_000),
        num_images=1_500_000,
        batch_images=64,
        **_INTERVALS,
    )


def r3gan_fashion() -> RunConfig:
    """R3GAN (Huang et al. 2024) on Fashion-MNIST: relativistic loss, R1 and R2, no normalisation, few channels."""
    return RunConfig(
        recipe="r3gan-fashion",
        data=IdxConfig(path="data/fashion-mnist", validation_fraction=0.02),
        system=GanConfig(
            objective=row(OBJECTIVES, "relativistic", r1=1.0, r2=1.0),
            generator=R3GANGeneratorConfig(channels=16, max_channels=64, num_blocks=1),
            discriminator=R3GANDiscriminatorConfig(channels=16, max_channels=64, num_blocks=1),
            latent_size=64,
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.0, 0.99), clip_norm=None),
        ema=EMAConfig(halflife_images=20_000),
        num_images=600_000,
        batch_images=64,
        **_INTERVALS,
    )


def dcgan_bedroom64() -> RunConfig:
    """DCGAN with the paper's network for LSUN bedrooms at 64x64, on any folder of images: 1024 channels at 4x4."""
    return bedroom64(
        "dcgan-bedroom64",
        GanConfig(
            generator=DCGANGeneratorConfig(channels=128, max_channels=1024),
            discriminator=DCGANDiscriminatorConfig(channels=64, max_channels=512),
            latent_size=100,
            precision="bf16",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.5, 0.999), clip_norm=None),
    )


def gan_rings() -> RunConfig:
    """The original GAN on eight Gaussians on a ring, where it drops modes (Metz et al. 2016, sec. 3.1)."""
    return _rings("gan-rings")


def unrolled_gan_rings() -> RunConfig:
    """The same with five unrolled discriminator steps, which covers all eight modes."""
    return _rings("unrolled-gan-rings", unrolled_steps=5, unrolled_rate=1e-4)


def _rings(recipe: str, **more: Any) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        data=GaussianRingConfig(),
        system=GanConfig(
            generator=MLPGeneratorConfig(), discriminator=MLPDiscriminatorConfig(num_layers=2), latent_size=256, **more
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, phase_learning_rates={"generator": 1e-3}, betas=(0.5, 0.999), clip_norm=None
        ),
        ema=EMAConfig(halflife_images=20_000),
        num_images=2_560_000,
        batch_images=256,
        log_every_images=25_600,
        validate_every_images=256_000,
        preview_every_images=512_000,
        checkpoint_every_images=1_024_000,
    )
