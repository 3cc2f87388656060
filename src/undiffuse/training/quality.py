"""Samples drawn during training for previews and quality measurements, and the interface of the latter.

The caller passes a ``Measure`` to the trainer. The seeds are always the same, so that changes over training are due to
the weights and not to the random numbers; the global random state is not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.data.dataset import Dataset
from undiffuse.data.example_captions import example_captions
from undiffuse.images import image_of, save_png
from undiffuse.models.base import GenerativeModel, to_uint8
from undiffuse.models.prompts import prompt_at
from undiffuse.models.request import SampleRequest

#: Seed of the first sample.
FIRST_SEED = 0
#: Samples in memory at a time, multiples of the networks' batch sizes.
_IMAGES, _POINTS = 256, 1024
_POINTS_SHOWN = 2000
#: Captions used as prompts of previews and measurements.
_MOST_PROMPTS = 256


class Measure(Protocol):
    """Measures the quality of samples.

    Called with an iterable of chunks of samples, uint8 images (B, C, H, W) or float32 points (B, D) on the CPU; returns
    plain values for a row of the metrics log, including ``metric`` (its name) and ``value``.
    """

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]: ...


def example_prompts(dataset: Dataset) -> list[str]:
    """Captions of a data set for previews, evenly spaced; the first alternative of each; empty without captions.

    Args:
        dataset: held-out data, or the training data if there is none.
    """
    return list(dict.fromkeys(example_captions(dataset, _MOST_PROMPTS)))


def draw_samples(model: GenerativeModel, count: int, prompts: Sequence[str] = ()) -> Iterator[Tensor]:
    """Samples 0, 1, ... ``count - 1`` in chunks, cycling through classes and prompts.

    Args:
        model: the model.
        count: number of samples.
        prompts: texts for a model with text.
    Yields:
        uint8 images (B, C, H, W) or float32 points (B, D), on the CPU.
    """
    points = not model.space.is_image
    chunk = _POINTS if points else _IMAGES
    for start in range(0, count, chunk):
        numbers = torch.arange(start, min(start + chunk, count))
        seeds = [FIRST_SEED + number for number in numbers.tolist()]
        given = _prompts(model, numbers.tolist(), prompts)
        x = model.sample(SampleRequest(seeds, prompts=given, batch_size=chunk)).x
        yield (x.float() if points else to_uint8(x)).cpu()


def save_preview(path: Path, model: GenerativeModel, num_images: int, prompts: Sequence[str] = ()) -> None:
    """Save a PNG of the first samples: ``num_images`` images, or a scatter plot of points.

    Args:
        path: path of the file.
        model: the model.
        num_images: number of images.
        prompts: texts for a model with text.
    """
    count = num_images if model.space.is_image else _POINTS_SHOWN
    save_png(path, image_of(torch.cat(list(draw_samples(model, count, prompts))).numpy()))


def _prompts(model: GenerativeModel, numbers: Sequence[int], texts: Sequence[str]) -> list[Prompt] | None:
    """Prompts that cycle through the classes and the texts; None for an unconditional model."""
    names = model.class_names
    texts = texts if model.conditioner.spec.text is not None else ()
    if not names and not texts:
        return None
    return [prompt_at(number, names, texts) for number in numbers]
