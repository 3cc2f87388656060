"""The caption of each image of a training batch, drawn from its alternatives."""

from __future__ import annotations

from dataclasses import replace

from undiffuse.captions import draw_alternative
from undiffuse.core.per_sample import PerRow
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch


def with_drawn_captions(
    batch: Batch, seed: int, step: int, first: int, step_images: int, last_share: float | None = None
) -> Batch:
    """The micro-batch with one caption per image.

    The draw depends on the seed, the step and the image's position in the step: it is the same after resuming, with any
    division into micro-batches, and on any device.

    Args:
        batch: images of a step.
        seed: seed of the run.
        step: index of the step.
        first: position of the first image in the step.
        step_images: number of images of the step.
        last_share: probability of the last alternative, see ``undiffuse.captions.draw_alternative``.
    """
    texts = batch.given.captions
    if texts is None:
        return batch
    count = max(step_images, first + len(batch))
    u = StepRandom(seed, step, stream="captions").uniform(count, "caption")[first : first + len(batch)].tolist()
    drawn = PerRow(draw_alternative(text, number, last_share) for text, number in zip(texts, u, strict=True))
    return replace(batch, given=replace(batch.given, captions=drawn))
