"""Recipes for a user's own photographs on a laptop: colour, a small network, class-conditional if folders are classes.

All three have the same network, at half resolution with 2.6 million parameters, and train for about an hour on two
cores. They differ in the image size and therefore in the number of images per hour.
"""

from __future__ import annotations

from undiffuse.augment.config import NoAugmentConfig
from undiffuse.data.config import FolderConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes.parts import flow, row
from undiffuse.recipes.proposal import IMAGES_PER_HOUR
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

#: Between the best weights for two bundled models: 4 for flowers, 2 for emoji (``benchmarks/guidance.py``).
GUIDANCE = 3.0

_NETWORK = UNetConfig(channels=48, multipliers=(1, 2, 2), num_blocks=1, patch_size=2, attention_levels=())
#: Mild and infrequent; the network is conditioned on it, so that it reduces overfitting without leaking into samples.
_AUGMENT = NoAugmentConfig(scale=0.12, rotate=0.12, rotate_degrees=20.0, stretch=0.12, translate=0.12)


def photos_32() -> RunConfig:
    """Flow matching on photographs at 32x32: an hour on two cores."""
    return _photos(32)


def photos_48() -> RunConfig:
    """Flow matching on photographs at 48x48: an hour on two cores."""
    return _photos(48)


def photos_64() -> RunConfig:
    """Flow matching on photographs at 64x64: an hour on two cores."""
    return _photos(64)


def _photos(size: int) -> RunConfig:
    images = IMAGES_PER_HOUR[size]
    return RunConfig(
        recipe=f"photos-{size}",
        data=FolderConfig(path="data/photos", size=size, channels=3, validation_fraction=0.02),
        system=flow(
            _NETWORK,
            precision="bf16",
            class_conditional="auto",
            time_draws="stratified",
            time_density=row(TIME_DENSITIES, "logit_normal", mean=0.3, std=1.1),
            sampling=SamplingConfig(sampler="unipc", num_steps=10, grid="uniform", guidance=GUIDANCE),
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=2e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=images,
        batch_images=32,
        random_flip=True,
        augment=_AUGMENT,
        validate_every_images=images // 5,
        preview_every_images=images // 5,
    )
