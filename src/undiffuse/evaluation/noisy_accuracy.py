"""Accuracy of a noise-aware classifier on held-out items, by noise level."""

from __future__ import annotations

import math

import torch

from undiffuse.core.random import StepRandom
from undiffuse.data.audit import evenly_spaced
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK, Result
from undiffuse.evaluation.context import EvaluationContext, need_held_out
from undiffuse.models.classifier import ClassifierModel
from undiffuse.models.rules import not_a_generator

NOISY_ACCURACY = "noisy_accuracy"
#: Metrics of models that generate no samples.
OF_GUIDES = (NOISY_ACCURACY, "retrieval", "zero_shot_accuracy")
#: Log-SNRs at which the accuracy is measured, if the classifier was trained there.
LEVELS = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)


def check_kind(context: EvaluationContext, metric: str) -> None:
    """Check that a metric of samples gets a model that generates them, and a metric of classifiers a classifier.

    Raises:
        UsageError: if it does not.
    """
    module = context.model.module
    if metric not in OF_GUIDES and not module.generates:
        raise not_a_generator("classifier" if isinstance(module, ClassifierModel) else "contrastive model")


def check_classifier(context: EvaluationContext) -> ClassifierModel:
    """The classifier under evaluation; checks that the held-out items have its classes.

    Raises:
        UsageError: another model, no held-out items, or other classes.
    """
    model, held_out = context.model.module, context.held_out
    if not isinstance(model, ClassifierModel):
        raise UsageError(
            f"metric {NOISY_ACCURACY!r} is for classifiers of noisy data, got a {type(model).__name__}; train one with "
            "system.name=classifier"
        )
    need_held_out(context, NOISY_ACCURACY)
    if held_out.class_names != model.class_names:
        raise UsageError(
            f"the classifier knows the classes {', '.join(model.class_names)}, the held-out items have "
            f"{', '.join(held_out.class_names) or 'none'}; give data of the same classes with --data"
        )
    return model


@torch.no_grad()
def noisy_accuracy(context: EvaluationContext) -> list[Result]:
    """Fraction of held-out items classified correctly, mean over log-SNRs; the fraction at each in ``details``."""
    model, rows = check_classifier(context), _rows(context)
    low, high = model.log_snr_range
    levels = [level for level in LEVELS if low <= level <= high]
    shares = [_accuracy(context, model, level, number) for number, level in enumerate(levels)]
    value, count = sum(shares) / len(shares), len(rows)
    protocol = {
        "seed": context.protocol.seed,
        "tested": count,
        "log_snrs": levels,
        "held_out_fingerprint": context.held_out.fingerprint,
        "uncertainty_of": "binomial, of the items tested",
    }
    by_level = {f"{level:g}": round(share, 6) for level, share in zip(levels, shares, strict=True)}
    error = math.sqrt(value * (1 - value) / count)
    unit = "share of noisy held-out items classified correctly"
    return [Result(NOISY_ACCURACY, value, unit, error, "higher", protocol, {"by_log_snr": by_level})]


def _rows(context: EvaluationContext) -> list[int]:
    """Indices of the tested items."""
    count = min(len(context.held_out), context.protocol.num)
    rows: list[int] = evenly_spaced(len(context.held_out), count).tolist()
    return rows


def _accuracy(context: EvaluationContext, model: ClassifierModel, log_snr: float, number: int) -> float:
    """Accuracy at one log-SNR; the noise depends on the seed, the level and the index of the chunk."""
    rows, correct = torch.tensor(_rows(context)), 0
    for part, chunk in enumerate(rows.split(CHUNK)):  # type: ignore[no-untyped-call]
        batch = context.held_out.fetch(chunk.numpy()).to(model.device)
        assert batch.given.label is not None
        t = model.process.time_of_log_snr(torch.full((len(chunk),), log_snr, dtype=torch.float64))
        rng = StepRandom(context.protocol.seed, number, part, stream="evaluation")
        noise = rng.normal(batch.x_0.cpu(), "eps").to(batch.x_0)
        logits = model.logits(model.process.diffuse(batch.x_0, noise, t.to(model.device)), t)
        correct += int((logits.argmax(1) == batch.given.label).sum())
    return correct / len(rows)
