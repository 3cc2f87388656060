"""The learning rate as a function of the images seen."""

from __future__ import annotations

import math

from undiffuse.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, images: int, num_images: int) -> float:
    """Linear warm-up, then the configured decay.

    Args:
        config: configuration of the optimizer.
        images: number of images seen after the step, so that the first step of a warm-up has a nonzero rate.
        num_images: number of images of the run.
    """
    if images < config.warmup_images:
        return config.learning_rate * images / config.warmup_images
    return config.learning_rate * _decay(config, images, num_images)


def _decay(config: OptimizerConfig, images: int, num_images: int) -> float:
    if config.decay == "constant":
        return 1.0
    if config.decay == "inverse_sqrt":
        return math.sqrt(max(config.warmup_images, 1) / max(images, config.warmup_images, 1))
    rest = max(num_images - config.warmup_images, 1)
    progress = min((images - config.warmup_images) / rest, 1.0)
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else 1 - progress
    return config.final_fraction + (1 - config.final_fraction) * shape
