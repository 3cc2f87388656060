"""Recipes for a laptop: digits and MNIST-format files."""

from __future__ import annotations

from undiffuse.data.config import DigitsConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes.parts import ddpm
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def ddpm_digits() -> RunConfig:
    """DDPM on the embedded 8x8 digits."""
    return RunConfig(
        recipe="ddpm-digits",
        data=DigitsConfig(),
        system=ddpm(
            UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1), time_draws="stratified", class_conditional=True
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=10_000),
        num_images=100_000,
        batch_images=128,
        validate_every_images=10_000,
        preview_every_images=30_000,
        validation_images=180,
        quality_every_images=20_000,
        quality_samples=200,
    )
