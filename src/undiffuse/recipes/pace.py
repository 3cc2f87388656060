"""Estimated duration of a training run without measuring: the recipe's known duration, scaled.

Reads no files and does not import torch. ``undiffuse train --dry-run`` measures the duration.
"""

from __future__ import annotations

from undiffuse.recipes.proposal import GPU_FACTOR, IMAGES_PER_HOUR, Hardware
from undiffuse.training.config import RunConfig, differences
from undiffuse.wording import format_names

#: Minutes on two cores, and image side, of the proposed recipes without overrides.
_KNOWN = {
    **{f"photos-{size}": (60.0, size) for size in IMAGES_PER_HOUR},
    "flow-mnist": (10.0, 28),
    "flow-fashion": (10.0, 28),
    "ddpm-digits": (2.0, 8),
}
#: Keys and sections that hardly change the cost of a step.
_FREE = (
    *("recipe", "seed", "num_images", "ema", "random_flip", "augment", "train_items"),
    *("optimizer.learning_rate", "optimizer.warmup_images", "optimizer.decay", "optimizer.final_fraction"),
    *("system.sampling", "system.class_conditional", "system.label_dropout", "system.guide_images"),
)


def estimate_duration(recipe: RunConfig, config: RunConfig, side: int, hardware: Hardware) -> str:
    """The estimated duration of ``config`` as text; empty if it is unknown.

    The duration scales with the number of images and of pixels; it is unknown for another network, batch size or
    precision.

    Args:
        recipe: the recipe's configuration.
        config: the same with the overrides for the data, the hardware and by the user.
        side: image side in pixels, if ``config`` does not set a size.
        hardware: where it is trained.
    """
    if recipe.recipe not in _KNOWN:
        return ""
    if changed := _changed(recipe, config):
        return f"--dry-run measures the duration with another {format_names(changed)}"
    if hardware.gpu:
        is_scaled = config.num_images == GPU_FACTOR * recipe.num_images
        return f"on a GPU it sees {GPU_FACTOR} times the images of an hour on two cores" if is_scaled else ""
    minutes, known_side = _KNOWN[recipe.recipe]
    height, width = getattr(config.data, "target", None) or (side, side)
    minutes *= config.num_images / recipe.num_images * height * width / known_side**2
    if hardware.cores == 1:
        return f"{format_minutes(2 * minutes)} on one core"
    more_cores = f", less on these {hardware.cores}" if hardware.cores > 2 else ""
    return f"{format_minutes(minutes)} on two cores{more_cores}"


def format_minutes(minutes: float) -> str:
    """A rounded duration: ``about 10 minutes``, ``about an hour``, ``about 3 hours``."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 10:
        count = round(minutes)
        return f"about {count} minutes" if count > 1 else "about a minute"
    if minutes < 52.5:
        return f"about {5 * round(minutes / 5)} minutes"
    hours = round(minutes / 60)
    if hours <= 1:
        return "about an hour"
    return f"about {hours} hours" if hours < 48 else f"about {round(hours / 24)} days"


def _changed(recipe: RunConfig, config: RunConfig) -> list[str]:
    """Keys that differ and change the cost per image."""
    lines = differences(recipe.model_dump(mode="json"), config.model_dump(mode="json"))
    keys = (line.partition(":")[0] for line in lines)
    return [key for key in keys if not any(f"{key}.".startswith(f"{free}.") for free in _FREE)]
