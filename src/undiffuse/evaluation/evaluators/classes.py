"""Recognised classes of samples by an evaluator, and of held-out images without training on classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.evaluators.evaluator import about_evaluator, check_shape, predicted_classes
from undiffuse.evaluation.evaluators.retrieval import check_contrastive
from undiffuse.evaluation.image_metrics import check_images
from undiffuse.metrics.caption_agreement import wilson_interval
from undiffuse.metrics.set_distance import SetDistance, set_distance
from undiffuse.models.classifier import ClassifierModel
from undiffuse.models.guides.contrastive import ContrastiveModel

CLASS_AGREEMENT, CLASS_DISTANCES, ZERO_SHOT = "class_agreement", "class_distances", "zero_shot_accuracy"
_MOST_REAL = 5000
_DIGITS = 6


def check_class_agreement(context: EvaluationContext) -> None:
    """Check that samples have classes, and that the evaluator or the features know them.

    Raises:
        UsageError: if not.
    """
    need_images(context, CLASS_AGREEMENT)
    names = _names_of_samples(context, CLASS_AGREEMENT)
    evaluator = None if context.evaluator is None else context.evaluator.module
    if evaluator is not None:
        check_shape(evaluator, context)
        if isinstance(evaluator, ClassifierModel) and not set(names) <= set(evaluator.class_names):
            raise UsageError(
                f"the evaluator knows the classes {', '.join(evaluator.class_names)}, the model {', '.join(names)}; "
                "give another with --evaluator"
            )
    elif not set(names) <= set(getattr(context.extractor, "classes", ())):
        raise UsageError(
            f"metric {CLASS_AGREEMENT!r} needs an evaluator that knows the classes {', '.join(names)}; give the folder "
            "of a classifier or of a contrastive model with --evaluator"
        )


def class_agreement(context: EvaluationContext) -> list[Result]:
    """Share of samples whose class the evaluator recognises, with its accuracy on held-out images in ``details``."""
    check_class_agreement(context)
    names, bank = context.model.class_names, context.generated_images
    correct = _predicted(context, bank.rows, names) == context.label_of(bank.numbers)
    by_class = {
        name: round(float(correct[context.label_of(bank.numbers) == number].double().mean()), _DIGITS)
        for number, name in enumerate(names)
        if bool((context.label_of(bank.numbers) == number).any())
    }
    details = {"interval": _interval(correct), "by_class": by_class, **_on_real_images(context, names)}
    entries = {**_about_recogniser(context), "chance": round(1 / len(names), _DIGITS), "samples": context.sampling()}
    entries["uncertainty_of"] = "binomial, of the samples; the interval is Wilson's at 95 %"
    return [_share(CLASS_AGREEMENT, correct, "share of samples of the requested class", entries, details)]


def check_zero_shot(context: EvaluationContext) -> None:
    """Check that the model is contrastive and the held-out images have classes.

    Raises:
        UsageError: if not.
    """
    check_contrastive(context, ZERO_SHOT)
    if context.held_out.labels is None or len(context.held_out.class_names) < 2:
        raise UsageError(f"metric {ZERO_SHOT!r} needs held-out images with classes; give others with --data")


def zero_shot_accuracy(context: EvaluationContext) -> list[Result]:
    """Accuracy on held-out images of the class whose text is most similar, without training on classes."""
    check_zero_shot(context)
    model, names = check_contrastive(context, ZERO_SHOT), context.held_out.class_names
    images, labels = _held_out(context)
    correct = predicted_classes(model, images, names, context.protocol.template) == labels
    entries = {
        "template": context.protocol.template,
        "tested": len(correct),
        "held_out_fingerprint": context.held_out.fingerprint,
        "chance": round(1 / len(names), _DIGITS),
        "uncertainty_of": "binomial, of the images tested; the interval is Wilson's at 95 %",
    }
    return [
        _share(
            ZERO_SHOT,
            correct,
            "share of held-out images classified correctly",
            entries,
            {"interval": _interval(correct)},
        )
    ]


def check_class_distances(context: EvaluationContext) -> None:
    """Check that samples have classes, enough of each, and that the features are not too many.

    Raises:
        UsageError: if not.
    """
    need_images(context, CLASS_DISTANCES)
    names = _names_of_samples(context, CLASS_DISTANCES)
    check_images(context, "kernel")
    kernel = set_distance("kernel")
    least = context.protocol.num // len(names)
    if least < kernel.min_images(context.num_features):
        needed = kernel.min_images(context.num_features) * len(names)
        raise UsageError(
            f"metric {CLASS_DISTANCES!r} needs {kernel.min_images(context.num_features)} samples of each of the "
            f"{len(names)} classes; set --num {needed} or more"
        )


def class_distances(context: EvaluationContext) -> list[Result]:
    """Distance of the samples of a class from the training images of the class, mean over the classes.

    The kernel distance, and the Fréchet distance if there are enough images of every class.

    Source: Fréchet: Soloveitchik et al. 2021, "Conditional Frechet Inception Distance", arXiv:2103.11521, for discrete
        conditions; DeVries et al. 2019, arXiv:1907.08175.
    """
    check_class_distances(context)
    names, bank = context.model.class_names, context.generated.features
    if context.train.labels is None or not set(names) <= set(context.train.class_names):
        raise UsageError(f"metric {CLASS_DISTANCES!r} needs training images of the model's classes; give its data")
    labels = context.label_of(bank.numbers)
    generated = [bank.rows[labels == number] for number in range(len(names))]
    real = [_real_features(context, name, 2 * len(rows)) for name, rows in zip(names, generated, strict=True)]
    fewest = min(min(map(len, generated)), min(map(len, real)))
    kinds = [set_distance("kernel"), set_distance("frechet")]
    fitting = [kind for kind in kinds if fewest >= kind.min_images(context.num_features)]
    return [_conditional(context, kind, generated, real) for kind in fitting]


def _conditional(
    context: EvaluationContext, distance: SetDistance, generated: Sequence[Tensor], real: Sequence[Tensor]
) -> Result:
    names = context.model.class_names
    found = [
        distance.between(distance.of(ours), distance.of(theirs)) for ours, theirs in zip(generated, real, strict=True)
    ]
    value = math.fsum(row.value for row in found) / len(found)
    error = math.sqrt(math.fsum(row.standard_error**2 for row in found)) / len(found)
    entries = {
        **context.extractor.protocol(),
        **context.about_generated(),
        "reference": "training images of the class, evenly spaced",
        "data_fingerprint": context.train.fingerprint,
        "samples_of_a_class": [len(rows) for rows in generated],
        "reference_images_of_a_class": [len(rows) for rows in real],
        "uncertainty_of": "standard errors of the classes, which are independent",
    }
    by_class = {name: round(row.value, _DIGITS) for name, row in zip(names, found, strict=True)}
    unit = "squared MMD, mean over classes" if distance.name == "kernel" else "squared feature units, mean over classes"
    name = f"conditional_{distance.name}_{context.extractor.name}"
    return Result(name, value, unit, error, "lower", entries, {"by_class": by_class})


def _names_of_samples(context: EvaluationContext, metric: str) -> tuple[str, ...]:
    """The classes that samples are drawn for.

    Raises:
        UsageError: there are none.
    """
    names = context.model.class_names
    if len(names) < 2:
        raise UsageError(
            f"metric {metric!r} needs samples of known class, this model was trained without classes; train with "
            "system.class_conditional=true"
        )
    return names


def _predicted(context: EvaluationContext, images: Tensor, names: Sequence[str]) -> Tensor:
    """Recognised class of each image, (N,)."""
    evaluator = None if context.evaluator is None else context.evaluator.module
    if isinstance(evaluator, ClassifierModel | ContrastiveModel):
        return predicted_classes(evaluator, images, names, context.protocol.template)
    known = list(context.extractor.classes)  # type: ignore[attr-defined]
    order = torch.tensor([known.index(name) for name in names])
    parts = [context.extractor.classify(part)[:, order].argmax(1) for part in torch.split(images, CHUNK)]
    return torch.cat(parts).cpu()


def _about_recogniser(context: EvaluationContext) -> dict[str, Any]:
    if context.evaluator is None:
        return {
            "evaluator": f"the classifier of the features {context.extractor.name!r}",
            **context.extractor.protocol(),
        }
    return {**about_evaluator(context), "template": context.protocol.template}


def _on_real_images(context: EvaluationContext, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy of the evaluator on held-out images of the same classes: the ceiling."""
    if not len(context.held_out) or context.held_out.labels is None or context.held_out.class_names != tuple(names):
        return {"real_images": None}
    images, labels = _held_out(context)
    correct = _predicted(context, images, names) == labels
    return {"real_images": round(float(correct.double().mean()), _DIGITS), "real_images_tested": len(correct)}


def _held_out(context: EvaluationContext) -> tuple[Tensor, Tensor]:
    """Held-out images (N, C, H, W) uint8 and their labels (N,)."""
    need_held_out(context, CLASS_AGREEMENT)
    batch = context.held_out.fetch(evenly_spaced(len(context.held_out), _MOST_REAL))
    assert batch.given.label is not None
    return batch.items, batch.given.label


def _real_features(context: EvaluationContext, name: str, count: int) -> Tensor:
    """Features (N, D) of up to ``count`` training images of a class."""
    number = context.train.class_names.index(name)
    assert context.train.labels is not None
    rows = (context.train.labels == number).nonzero()[0]
    chosen = rows[evenly_spaced(len(rows), max(count, _MOST_REAL))]
    parts = [
        context.extractor.features(context.train.fetch(chosen[start : start + CHUNK]).items)
        for start in range(0, len(chosen), CHUNK)
    ]
    return torch.cat(parts)


def _interval(correct: Tensor) -> list[float]:
    return [round(end, _DIGITS) for end in wilson_interval(float(correct.double().mean()), len(correct))]


def _share(name: str, correct: Tensor, unit: str, entries: dict[str, Any], details: dict[str, Any]) -> Result:
    value = float(correct.double().mean())
    return Result(name, value, unit, math.sqrt(value * (1 - value) / len(correct)), "higher", entries, details)
