"""Contrastive models of images and captions, which evaluate samples and guide their generation."""

from __future__ import annotations

from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.data.config import ScenesConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.contrastive import ContrastiveConfig
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def contrastive_scenes() -> RunConfig:
    """Noisy scenes of two things at 16x16 and their captions, for evaluation and for guidance through x_t."""
    network = UNetConfig(channels=64, multipliers=(1, 2), num_blocks=1, patch_size=2, attention_levels=(), dropout=0.0)
    return RunConfig(
        recipe="contrastive-scenes",
        data=ScenesConfig(size=16, shapes=3, sizes=False, counts=False, objects=2, validation_fraction=0.05),
        system=ContrastiveConfig(network=network, precision="bf16", text=LearnedTextConfig(use="pooled")),
        optimizer=OptimizerConfig(name="muon", learning_rate=4e-3, warmup_images=6_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=64_000,
        batch_images=256,
        log_every_images=6_400,
        validate_every_images=12_800,
        validation_images=1_024,
        preview_every_images=0,
    )
