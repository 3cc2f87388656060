"""Metrics of points: the sliced Wasserstein distance."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Result, spread
from undiffuse.evaluation.subject import Subject
from undiffuse.metrics.sliced import NUM_DIRECTIONS, sliced_wasserstein, sliced_wasserstein_error


def sliced(subject: Subject) -> list[Result]:
    """Mean W_2 of samples and held-out points along fixed directions; the same of training points gives the scale."""
    if subject.pictures:
        raise UsageError("metric 'sliced_wasserstein' is for points, this model makes pictures; use 'frechet'")
    if len(subject.held_out) == 0:
        raise UsageError("metric 'sliced_wasserstein' needs held-out points: train with a validation_fraction")
    num = subject.protocol.num
    real, training = spread(subject.held_out, num), spread(subject.train, num)
    value = sliced_wasserstein(subject.samples, real)
    stated = {
        "directions": NUM_DIRECTIONS,
        "reference": "held-out points",
        "reference_points": len(real),
        "data_fingerprint": subject.held_out.fingerprint,
        "samples": subject.sampling(),
    }
    details = {"training_to_held_out": sliced_wasserstein(training, real), "training_points": len(training)}
    error = sliced_wasserstein_error(subject.samples, real)
    return [Result("sliced_wasserstein", value, "units of the data", error, "lower", stated, details)]
