"""The generalisation gap: the loss on training images compared with held-out images, at the same times and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.random import StepRandom
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.streaming import Rows
from undiffuse.objectives.base import AnyObjective, in_evaluation

_BATCH = 128
_MAX_IMAGES = 512  # of each set
_MIN_LOSSES = 512  # of each set, over repeated rounds with new noise
_MAX_ROUNDS = 16


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
    """The model's training loss on training and on held-out images, each pair of them with the same time and noise.

    Args:
        objective: of the model; the loss of its first phase is used.
        train, held_out: at least two images each; the same number is taken from both, evenly spaced.
        seed: of times and noise.
    """
    count = min(len(train), len(held_out), _MAX_IMAGES)
    rounds = min(_MAX_ROUNDS, -(-_MIN_LOSSES // count))
    on_train, on_held_out = (_losses(objective, dataset, count, rounds, seed) for dataset in (train, held_out))
    held, mean = float(on_held_out.mean()), float(on_train.mean())
    if not held > 0:
        return GeneralisationGap(mean, held, None, None, count, rounds)
    error = float((on_held_out - on_train).std() / count**0.5) if count > 1 else None
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
