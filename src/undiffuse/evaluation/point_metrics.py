"""Metrics of points: the sliced Wasserstein distance."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Result, evenly_spaced_subset
from undiffuse.evaluation.context import EvaluationContext
from undiffuse.metrics.sliced import NUM_DIRECTIONS, sliced_wasserstein, sliced_wasserstein_error


def sliced(context: EvaluationContext) -> list[Result]:
    """Mean W_2 of samples and held-out points along fixed directions, with the same of training points as reference."""
    if context.generates_images:
        raise UsageError("metric 'sliced_wasserstein' is for points, this model generates images; use 'frechet'")
    if len(context.held_out) == 0:
        raise UsageError("metric 'sliced_wasserstein' needs held-out points: train with a validation_fraction")
    num = context.protocol.num
    real, training = evenly_spaced_subset(context.held_out, num), evenly_spaced_subset(context.train, num)
    value = sliced_wasserstein(context.samples, real)
    entries = {
        "directions": NUM_DIRECTIONS,
        "reference": "held-out points",
        "reference_points": len(real),
        "data_fingerprint": context.held_out.fingerprint,
        "samples": context.sampling(),
    }
    details = {"training_to_held_out": sliced_wasserstein(training, real), "training_points": len(training)}
    error = sliced_wasserstein_error(context.samples, real)
    return [Result("sliced_wasserstein", value, "units of the data", error, "lower", entries, details)]
