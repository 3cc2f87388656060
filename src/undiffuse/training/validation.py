"""The validation loss on held-out images, always with the same images, times and noise."""

from __future__ import annotations

import numpy as np
import torch

from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Dataset
from undiffuse.objectives.base import AnyObjective, in_evaluation

_BATCH = 128


def validation_loss(objective: AnyObjective, dataset: Dataset, count: int, seed: int, device: torch.device) -> float:
    """Mean loss of the first ``count`` images of ``dataset``, see ``validation_means``."""
    return validation_means(objective, dataset, count, seed, device)["loss"]


@torch.no_grad()
def validation_means(
    objective: AnyObjective, dataset: Dataset, count: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Mean loss and mean metrics of the loss over the first ``count`` images of ``dataset``, each at one time.

    A metric that some batches do not report is a mean over the others.

    Times are drawn as in training: stratified over each 128 images if the objective does so, otherwise independently.

    Args:
        objective: objective of the raw model or of the averaged one.
        dataset: images to compute the loss on.
        count: number of images.
        seed: seed of the run; times and noise depend only on it and the image's index.
        device: device of the model.
    """
    totals, counts = {"loss": 0.0}, {"loss": count}
    with in_evaluation(objective):
        for number, start in enumerate(range(0, count, _BATCH)):
            rows = np.arange(start, min(start + _BATCH, count))
            rng = StepRandom(seed, number, stream="validation", device=device)
            report = objective(dataset.fetch(rows).to(device), objective.phases[0].name, rng)
            totals["loss"] += float(report.per_sample.double().sum())
            for name, value in report.metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(rows)
                counts[name] = counts.get(name, 0) + len(rows)
    return {name: total / counts[name] for name, total in totals.items()}


def validation_row(
    objective: AnyObjective,
    averaged: AnyObjective,
    validation: Dataset,
    train: Dataset,
    count: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """A row of the metrics log: losses of the averaged and the raw model, and metrics on held-out and training data.

    Args:
        objective: objective of the raw model.
        averaged: objective of the averaged model.
        validation: held-out data.
        train: training data, on which ``train_validation_metrics`` are computed as well.
        count: number of images of each, at most the size of ``validation``.
        seed: seed of the run.
        device: device of both models.
    """
    means = validation_means(objective, validation, count, seed, device)
    average = validation_loss(averaged, validation, count, seed, device)
    values = {"loss": average, "loss_raw": means.pop("loss"), **means}
    if names := objective.train_validation_metrics:
        known = validation_means(objective, train, min(count, len(train)), seed, device)
        values |= {f"{name}_train": known[name] for name in names}
        values |= {f"{name}_gap": known[name] - means[name] for name in names}
    return values
