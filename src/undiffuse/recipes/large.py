"""Recipes at the size of the papers, for colour pictures and for machines with a GPU."""

from __future__ import annotations

from undiffuse.data.config import FolderConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes.parts import ddpm
from undiffuse.systems.diffusion import SamplingConfig
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def ddpm_cifar10() -> RunConfig:
    """Ho et al. 2020, appendix B: 800k steps of 128 images, flips, EMA of 0.9999 a step."""
    return RunConfig(
        recipe="ddpm-cifar10",
        data=FolderConfig(path="data/cifar10", size=32, channels=3, validation_fraction=0.02),
        system=ddpm(
            UNetConfig.ho_cifar10(),
            precision="bf16",
            sampling=SamplingConfig(sampler="ancestral", num_steps=1000, grid="uniform"),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=640_000),
        # 0.9999 a step of 128 images halves a weight's share in 6,931 steps
        ema=EMAConfig(halflife_images=887_000, rampup=None),
        num_images=102_400_000,
        batch_images=128,
        random_flip=True,
        log_every_images=12_800,
        validate_every_images=500_000,
        preview_every_images=500_000,
        checkpoint_every_images=1_000_000,
    )


def ddpm_church48() -> RunConfig:
    """The network of the LSUN church report at 48x48 with 86.8M parameters: 128 channels, 1-2-3-4."""
    return RunConfig(
        recipe="ddpm-church48",
        data=FolderConfig(path="data/church", size=48, channels=3, labels="none", validation_fraction=0.02),
        system=ddpm(
            UNetConfig(channels=128, multipliers=(1, 2, 3, 4), num_blocks=2, attention_levels=(2,), num_heads=4),
            precision="bf16",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=160_000),
        ema=EMAConfig(halflife_images=400_000),
        num_images=20_000_000,
        batch_images=64,
        micro_batch_images=16,
        random_flip=True,
        log_every_images=6_400,
        validate_every_images=200_000,
        preview_every_images=200_000,
        checkpoint_every_images=200_000,
    )
