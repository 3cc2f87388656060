"""The generalisation gap: the loss on training images against that on held-out ones, at the same times and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.random import StepRandom
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.gather import Rows
from undiffuse.objectives.base import AnyObjective, in_evaluation

_BATCH = 128
_IMAGES = 512  # of each set at most
_LOSSES = 512  # of each set at least, over as many rounds of other noise as that takes
_MOST_ROUNDS = 16


class GeneralisationGap(NamedTuple):
    """Mean losses of training and of held-out images; ``relative`` is (held_out - training) / held_out.

    The errors are standard errors over images, and that of ``relative`` is over pairs with common noise.
    """

    training: float
    held_out: float
    relative: float | None
    standard_error: float | None
    num_images: int
    num_rounds: int


@torch.no_grad()
def generalisation_gap(objective: AnyObjective, train: Dataset, held_out: Dataset, seed: int) -> GeneralisationGap:
    """The model's own loss on training and on held-out images, each pair of them with the same time and noise.

    Args:
        objective: around the model; the loss of its first phase is taken.
        train, held_out: at least two images each; as many are taken of both, evenly spaced.
        seed: of times and noise.
    """
    count = min(len(train), len(held_out), _IMAGES)
    rounds = min(_MOST_ROUNDS, -(-_LOSSES // count))
    known, other = (_losses(objective, dataset, count, rounds, seed) for dataset in (train, held_out))
    held, mean = float(other.mean()), float(known.mean())
    if not held > 0:
        return GeneralisationGap(mean, held, None, None, count, rounds)
    error = float((other - known).std() / count**0.5) if count > 1 else None
    return GeneralisationGap(mean, held, (held - mean) / held, None if error is None else error / held, count, rounds)


def _losses(objective: AnyObjective, dataset: Dataset, count: int, rounds: int, seed: int) -> Tensor:
    """The mean loss (count,) of each image over all rounds, in float64."""
    rows = evenly_spaced(len(dataset), count)
    with in_evaluation(objective):
        return torch.stack([_one_round(objective, dataset, rows, seed, number) for number in range(rounds)]).mean(0)


def _one_round(objective: AnyObjective, dataset: Dataset, rows: Rows, seed: int, number: int) -> Tensor:
    parts = []
    for start in range(0, len(rows), _BATCH):
        rng = StepRandom(seed, number, start, stream="gap", device=objective.model.device)
        batch = dataset.fetch(rows[start : start + _BATCH]).to(objective.model.device)
        parts.append(objective(batch, objective.phases[0].name, rng).per_sample.double().cpu())
    return torch.cat(parts)
