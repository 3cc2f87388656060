"""Classification accuracy score: a classifier trained only on generated images, tested on real ones.

Ravuri & Vinyals 2019, arXiv:1905.10887. It is reported with the accuracy of the same classifier trained on as many real
images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.image_metrics import check_images
from undiffuse.evaluation.pair import Pair
from undiffuse.metrics.accuracy import check_sides, train_and_test

MAX_IMAGES = 10_000  # images that a classifier is trained on, and that it is tested on


class Labelled(NamedTuple):
    """uint8 images (N, C, H, W) and their classes (N,)."""

    images: Tensor
    labels: Tensor


def check_accuracy(context: EvaluationContext) -> None:
    """Check before sampling that the model and the held-out images have classes, enough images and a valid size."""
    need_images(context, "accuracy")
    _, height, width = context.model.module.shape
    check_sides(height, width, "sampled")
    check_images(context, "accuracy")
    need_held_out(context, "accuracy", 2)
    if not context.model.class_names:
        raise UsageError(
            "metric 'accuracy' needs samples of known class, this model was trained without classes; train with "
            "system.class_conditional=true"
        )
    _check_classes(context.held_out, "the held-out images", context.model.class_names)


def accuracy(context: EvaluationContext) -> list[Result]:
    """Accuracy on held-out images of a classifier trained on samples, and of one trained on real images."""
    check_accuracy(context)
    _check_classes(context.train, "the training images", context.model.class_names)
    bank = context.generated_images
    generated = Labelled(bank.rows, context.label_of(bank.numbers))
    real = _labelled(context.train, min(len(generated.labels), MAX_IMAGES))
    test = _labelled(context.held_out, MAX_IMAGES)
    entries = {
        "tested_on": "held-out images",
        "held_out_fingerprint": context.held_out.fingerprint,
        "data_fingerprint": context.train.fingerprint,
        "samples": context.sampling(),
    }
    return _results(generated, real, test, len(context.model.class_names), entries)


def accuracy_between(pair: Pair) -> list[Result]:
    """``accuracy`` of two labelled sets; half of the real set is the test set, half trains the reference classifier."""
    names = pair.real_set.class_names
    _check_classes(pair.real_set, "B", names)
    _check_classes(pair.generated_set, "A", names)
    rows = evenly_spaced(len(pair.real_set), pair.num_real)
    generated = _labelled(pair.generated_set, min(pair.num_generated, MAX_IMAGES))
    real = _labelled(pair.real_set.subset(rows[::2]), min(len(generated.labels), MAX_IMAGES))
    test = _labelled(pair.real_set.subset(rows[1::2]), MAX_IMAGES)
    entries = {"tested_on": "every second real image", **pair.about_real(), **pair.about_generated()}
    return _results(generated, real, test, len(names), entries)


def _check_classes(dataset: Dataset, what: str, names: tuple[str, ...]) -> None:
    if dataset.labels is None or len(names) < 2:
        raise UsageError(
            f"metric 'accuracy' needs images of known class, {what} have none; give each class a folder of its own"
        )
    if dataset.class_names != names:
        raise UsageError(
            f"metric 'accuracy' needs the same classes on both sides, {what} have {', '.join(dataset.class_names)} "
            f"instead of {', '.join(names)}"
        )


def _labelled(dataset: Dataset, count: int) -> Labelled:
    """``count`` evenly spaced images of a set that has labels."""
    rows = evenly_spaced(len(dataset), count)
    batches = [dataset.fetch(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    labels = [batch.given.label for batch in batches if batch.given.label is not None]
    return Labelled(torch.cat([batch.items for batch in batches]), torch.cat(labels))


def _results(generated: Labelled, real: Labelled, test: Labelled, num: int, entries: dict[str, Any]) -> list[Result]:
    found, reference = (train_and_test(*side, *test, num) for side in (generated, real))
    training = {"classifier": "five convolutions, trained here", "epochs": found.epochs, "seed": found.seed}
    counts = {"trained_on": found.num_train, "real_trained_on": reference.num_train, "tested": found.num_test}
    details = {
        "real_pictures": reference.value,
        "real_pictures_uncertainty": reference.standard_error,
        "by_class": list(found.by_class),
        "real_by_class": list(reference.by_class),
    }
    unit, error = "share of real images classified correctly", found.standard_error
    protocol = {**entries, **counts, **training, "uncertainty_of": "binomial, of the images tested"}
    return [Result("classification_accuracy", found.value, unit, error, "higher", protocol, details)]
