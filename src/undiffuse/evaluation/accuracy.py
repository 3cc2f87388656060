"""Classification accuracy score: a classifier that learned from generated pictures alone, tested on real ones.

Ravuri & Vinyals 2019, arXiv:1905.10887. Beside it stands the same classifier trained on as many real pictures.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result
from undiffuse.evaluation.pair import Pair
from undiffuse.evaluation.pictures import check_images
from undiffuse.evaluation.subject import Subject, need_held_out, need_pictures
from undiffuse.metrics.accuracy import check_sides, train_and_test

MOST = 10_000  # pictures that a classifier learns from, and that it is tested on


class Labelled(NamedTuple):
    """uint8 pictures (N, C, H, W) and their classes (N,)."""

    pictures: Tensor
    labels: Tensor


def check_accuracy(subject: Subject) -> None:
    """Refuse a model or held-out pictures without classes, too few or of a size unfit, before anything is sampled."""
    need_pictures(subject, "accuracy")
    _, height, width = subject.model.module.shape
    check_sides(height, width, "sampled")
    check_images(subject, "accuracy")
    need_held_out(subject, "accuracy", 2)
    if not subject.model.class_names:
        raise UsageError(
            "metric 'accuracy' needs samples of known class, this model was trained without classes; train with "
            "system.class_conditional=true"
        )
    _check_classes(subject.held_out, "the held-out pictures", subject.model.class_names)


def accuracy(subject: Subject) -> list[Result]:
    """Accuracy on held-out pictures of a classifier trained on samples; the same trained on real pictures."""
    check_accuracy(subject)
    _check_classes(subject.train, "the training pictures", subject.model.class_names)
    bank = subject.pictures_made
    made = Labelled(bank.rows, subject.label_of(bank.numbers))
    real = _labelled(subject.train, min(len(made.labels), MOST))
    test = _labelled(subject.held_out, MOST)
    stated = {
        "tested_on": "held-out pictures",
        "held_out_fingerprint": subject.held_out.fingerprint,
        "data_fingerprint": subject.train.fingerprint,
        "samples": subject.sampling(),
    }
    return _results(made, real, test, len(subject.model.class_names), stated)


def accuracy_between(pair: Pair) -> list[Result]:
    """The same of labelled pictures, tested on half of the real set; the other half trains the one beside it."""
    names = pair.held.class_names
    _check_classes(pair.held, "B", names)
    _check_classes(pair.made, "A", names)
    rows = evenly_spaced(len(pair.held), pair.num_real)
    made = _labelled(pair.made, min(pair.num_generated, MOST))
    real = _labelled(pair.held.subset(rows[::2]), min(len(made.labels), MOST))
    test = _labelled(pair.held.subset(rows[1::2]), MOST)
    stated = {"tested_on": "every second real picture", **pair.about_real(), **pair.about_generated()}
    return _results(made, real, test, len(names), stated)


def _check_classes(dataset: Dataset, what: str, names: tuple[str, ...]) -> None:
    if dataset.labels is None or len(names) < 2:
        raise UsageError(
            f"metric 'accuracy' needs pictures of known class, {what} have none; give each class a folder of its own"
        )
    if dataset.class_names != names:
        raise UsageError(
            f"metric 'accuracy' needs the same classes on both sides, {what} have {', '.join(dataset.class_names)} "
            f"instead of {', '.join(names)}"
        )


def _labelled(dataset: Dataset, count: int) -> Labelled:
    """``count`` evenly spaced pictures of a set that has labels."""
    rows = evenly_spaced(len(dataset), count)
    batches = [dataset.fetch(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    labels = [batch.given.label for batch in batches if batch.given.label is not None]
    return Labelled(torch.cat([batch.items for batch in batches]), torch.cat(labels))


def _results(made: Labelled, real: Labelled, test: Labelled, num: int, stated: dict[str, Any]) -> list[Result]:
    found, scale = (train_and_test(*side, *test, num) for side in (made, real))
    training = {"classifier": "five convolutions, trained here", "epochs": found.epochs, "seed": found.seed}
    counts = {"trained_on": found.num_train, "real_trained_on": scale.num_train, "tested": found.num_test}
    details = {
        "real_pictures": scale.value,
        "real_pictures_uncertainty": scale.standard_error,
        "by_class": list(found.by_class),
        "real_by_class": list(scale.by_class),
    }
    unit, error = "share of real pictures named rightly", found.standard_error
    protocol = {**stated, **counts, **training, "uncertainty_of": "binomial, of the pictures tested"}
    return [Result("classification_accuracy", found.value, unit, error, "higher", protocol, details)]
