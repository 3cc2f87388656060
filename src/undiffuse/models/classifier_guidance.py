"""Adds the classifier of a request to the plan of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from undiffuse.errors import UsageError
from undiffuse.guidance.classifier import TextGuide
from undiffuse.models.request import SampleRequest
from undiffuse.models.rules import check_classifier_options, check_noise_aware, check_same_classes
from undiffuse.models.stages import DenoisingStage
from undiffuse.samplers.plan import Plan


def with_classifier(plan: Plan, request: SampleRequest, class_names: Sequence[str], shape: tuple[int, ...]) -> Plan:
    """``plan`` with the classifier of a request, which guides every stage; ``plan`` itself if there is none.

    Args:
        plan: plan of the model for the options of the request.
        request: its options and loaded classifier.
        class_names: class names of the model; empty for an unconditional model.
        shape: shape of its samples.
    Raises:
        UsageError: if the classifier does not know the model's classes or the shape of its samples, options of a
            classifier are given without one, or the model has no denoiser.
    """
    options = request.options
    check_classifier_options(options.classifier, options.given(), options.cache_interval)
    if (classifier := request.classifier) is None:
        return plan
    if isinstance(classifier, TextGuide):
        check_noise_aware(classifier.noise_aware, options.classifier_through)
    else:
        check_same_classes(classifier.class_names, class_names)
    if classifier.shape != shape:
        raise UsageError(
            f"the classifier is for samples of shape {classifier.shape}, the model generates {shape}; use a classifier "
            "that was trained on data of this shape"
        )
    stages = []
    for stage in plan.stages:
        if not isinstance(stage, DenoisingStage):
            raise UsageError("a generator samples in one evaluation and cannot be guided; leave the classifier out")
        stages.append(replace(stage, classifier=classifier, gradients=options.classifier_through == "x_0"))
    return replace(plan, stages=tuple(stages))
