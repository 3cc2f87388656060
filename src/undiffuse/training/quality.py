"""Samples drawn during training for previews and quality measurements, and the interface of the latter.

The caller passes a ``Measure`` to the trainer. The seeds are always the same, so that changes over training are due to
the weights and not to the random numbers; the global random state is not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.images import image_of, save_png
from undiffuse.models.base import GenerativeModel, to_uint8
from undiffuse.models.request import SampleRequest

#: Seed of the first sample.
FIRST_SEED = 0
#: Samples in memory at a time, multiples of the networks' batch sizes.
_IMAGES, _POINTS = 256, 1024
_POINTS_SHOWN = 2000


class Measure(Protocol):
    """Measures the quality of samples.

    Called with an iterable of chunks of samples, uint8 images (B, C, H, W) or float32 points (B, D) on the CPU; returns
    plain values for a row of the metrics log, including ``metric`` (its name) and ``value``.
    """

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]: ...


def draw_samples(model: GenerativeModel, count: int) -> Iterator[Tensor]:
    """Samples 0, 1, ... ``count - 1`` in chunks, cycling through classes: uint8 images or float32 points on CPU."""
    points = not model.space.is_image
    chunk = _POINTS if points else _IMAGES
    for start in range(0, count, chunk):
        numbers = torch.arange(start, min(start + chunk, count))
        seeds = [FIRST_SEED + number for number in numbers.tolist()]
        x = model.sample(SampleRequest(seeds, cond=_classes(model, numbers), batch_size=chunk)).x
        yield (x.float() if points else to_uint8(x)).cpu()


def save_preview(path: Path, model: GenerativeModel, num_images: int) -> None:
    """Save a PNG of the first samples: ``num_images`` images, or a scatter plot of points."""
    count = num_images if model.space.is_image else _POINTS_SHOWN
    save_png(path, image_of(torch.cat(list(draw_samples(model, count))).numpy()))


def _classes(model: GenerativeModel, numbers: Tensor) -> Condition | None:
    if not model.class_names:
        return None
    return Condition(label=(numbers % len(model.class_names)).to(model.device))
