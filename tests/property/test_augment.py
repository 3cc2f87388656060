"""Mirroring: each picture as it is or mirrored, about half of them, by draws that the step alone decides."""

from __future__ import annotations

import torch

from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.data.source import Batch
from undiffuse.training.augment import flip_some

PICTURES = torch.randint(0, 256, (1000, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(PICTURES, Condition(class_label=torch.arange(1000)), torch.arange(1000))


def mirrored(step: int, micro_batch: int = 0) -> torch.Tensor:
    """Which pictures were mirrored, ``(1000,)`` bool."""
    flipped = flip_some(BATCH, StepRandom(3, step, micro_batch))
    same, mirror = ((flipped.items == items).flatten(1).all(1) for items in (PICTURES, PICTURES.flip(-1)))
    assert bool((same ^ mirror).all())
    assert flipped.condition is BATCH.condition and torch.equal(flipped.indices, BATCH.indices)
    return mirror


def test_about_half_of_the_pictures_are_mirrored_by_the_step() -> None:
    first = mirrored(7)
    assert 420 < int(first.sum()) < 580  # five standard deviations
    assert torch.equal(first, mirrored(7))
    assert not torch.equal(first, mirrored(8))
    assert not torch.equal(first, mirrored(7, micro_batch=1))
