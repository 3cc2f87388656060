"""Noise-aware classifiers for classifier guidance (Dhariwal & Nichol 2021), of MNIST-format files and of points."""

from __future__ import annotations

from undiffuse.data.config import IdxConfig, RingsConfig
from undiffuse.networks.config import MLPConfig, UNetConfig
from undiffuse.objectives.classifier import ClassifierConfig
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def classifier_mnist() -> RunConfig:
    """The encoder half of a small U-Net; the times are those of ``flow-mnist``."""
    network = UNetConfig(
        channels=32, multipliers=(1, 2, 2), num_blocks=1, patch_size=2, attention_levels=(), dropout=0.0
    )
    return RunConfig(
        recipe="classifier-mnist",
        data=IdxConfig(path="data/mnist", validation_fraction=0.02),
        system=ClassifierConfig(network=network, precision="bf16"),
        optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=5_000),
        num_images=100_000,
        batch_images=128,
        log_every_images=6_400,
        validate_every_images=25_000,
        validation_images=1_024,
        preview_every_images=0,
    )


def classifier_rings() -> RunConfig:
    """Which of the concentric circles a point belongs to."""
    return RunConfig(
        recipe="classifier-rings",
        data=RingsConfig(),
        system=ClassifierConfig(network=MLPConfig(width=64, num_blocks=2)),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_images=20_000, decay="cosine"),
        ema=EMAConfig(halflife_images=50_000),
        num_images=500_000,
        batch_images=1_000,
        log_every_images=50_000,
        validate_every_images=250_000,
        preview_every_images=0,
    )
