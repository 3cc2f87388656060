"""Mirroring pictures, by counter-based draws."""

from __future__ import annotations

from dataclasses import replace

import torch

from undiffuse.core.random import StepRandom
from undiffuse.data.source import Batch


def flip_some(batch: Batch, rng: StepRandom) -> Batch:
    """Mirror each picture left to right with probability 1/2."""
    flip = (rng.uniform(len(batch), "flip") < 0.5).reshape(-1, 1, 1, 1)
    return replace(batch, items=torch.where(flip, batch.items.flip(-1), batch.items))
