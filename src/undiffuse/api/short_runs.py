"""Notes on trainings that are too short, so that samples are little more than noise: as implied by the configuration
(also in a dry run), or as seen in the last preview.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.diagnostics.noise import is_noise, neighbour_correlation
from undiffuse.diagnostics.weights import assess_ema
from undiffuse.images import Bytes, images_in
from undiffuse.observer import note
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.training.config import RunConfig
from undiffuse.training.folder import PREVIEWS

#: Number of training images to compare samples with.
_LOOKED_AT = 256


def note_short_run(config: RunConfig) -> bool:
    """Note if a run ends during warm-up or before its average is meaningful; returns whether it did.

    Students and fine-tuned models start from trained weights and are exempt.
    """
    if getattr(config.system, "teacher", None) is not None or config.start is not None:
        return False
    reason = _reason_too_short(config)
    if reason:
        note(f"num_images={config.num_images}: {reason}; samples will be little more than noise{_of_recipe(config)}")
    return bool(reason)


def _reason_too_short(config: RunConfig) -> str:
    warmup, seen = config.optimizer.warmup_images, config.num_steps * config.batch_images
    if seen < warmup:
        return f"the learning rate is still rising at the end, optimizer.warmup_images={warmup}"
    average = assess_ema(seen, config.ema.halflife_images, config.ema.rampup)
    return f"{average.title} at the end, {average.evidence}" if average.severity == "problem" else ""


def note_noisy_preview(config: RunConfig, training: Dataset, run: Path) -> None:
    """Note if the last preview of a run is little more than noise, by the correlation of neighbouring pixels.

    Args:
        config: of the run.
        training: its training data.
        run: its folder.
    """
    shown = _last_preview(config, training, run)
    if shown is None:
        return
    real = training.fetch(evenly_spaced(len(training), _LOOKED_AT)).items
    ours, theirs = neighbour_correlation(torch.from_numpy(shown)), neighbour_correlation(real)
    if is_noise(ours, theirs):
        note(
            f"samples are little more than noise: their neighbouring pixels correlate by {ours:.2f}, those of the data "
            f"by {theirs:.2f}; num_images={config.num_images} is too little for this network{_of_recipe(config)}"
        )


def _last_preview(config: RunConfig, training: Dataset, run: Path) -> Bytes | None:
    """The images of the last preview grid, (N, C, H, W)."""
    from PIL import Image

    path = run / PREVIEWS / f"images_{config.num_steps * config.batch_images:012d}.png"
    if not config.preview_every_images or not training.space.is_image or not path.is_file():
        return None
    channels, height, width = training.shape
    with Image.open(path) as grid:
        array = np.asarray(grid.convert("L" if channels == 1 else "RGB"))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return images_in(array, (channels, height, width), config.preview_samples)


def _of_recipe(config: RunConfig) -> str:
    whole = get_recipe(config.recipe).num_images if config.recipe in RECIPES else 0
    return f", the recipe {config.recipe} sees {whole:,} images" if whole > config.num_images else ""
