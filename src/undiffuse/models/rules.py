"""Compatibility checks of a model's settings that need no heavy imports.

Called by the configurations' validators, and by the command line before it imports them; ``config`` is the
configuration or an object with the same attributes. Checks that need a process or a parameterization are in the models'
modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.core.process_limits import check_parameterization
from undiffuse.errors import UsageError

#: Kinds of models that guide other models and generate no samples.
GUIDING_ONLY = ("classifier", "contrastive")


def num_steps_of(process: Any) -> int | None:
    """T of a discrete chain; None for a continuous process.

    Args:
        process: configuration of the process.
    """
    num_steps: int | None = getattr(process, "num_steps", None)
    return num_steps


def check_prediction(config: Any) -> None:
    """Check that the parameterization is defined for the process.

    Raises:
        UsageError: if it is not.
    """
    check_parameterization(config.parameterization, num_steps_of(config.process))


def is_conditional(config: Any) -> bool:
    """Whether a model is conditioned on classes or captions.

    Args:
        config: configuration of a denoising model.
    """
    return bool(config.class_conditional) or getattr(config, "text", None) is not None


def check_guidance(scale: float, conditional: bool, label_dropout: float, instead: str = "leave it out") -> None:
    """Check that a model was trained both with and without its condition if it uses classifier-free guidance.

    Args:
        scale: weight of classifier-free guidance; 1 for none.
        conditional: whether the model is conditioned on classes or captions.
        label_dropout: fraction of training samples without their class and caption.
        instead: advice for the message.
    Raises:
        UsageError: if the model cannot be guided.
    """
    if scale == 1:
        return
    if not conditional:
        raise UsageError(f"guidance {scale:g} needs a model trained with classes, this one was not; {instead}")
    if label_dropout == 0:
        raise UsageError(
            f"guidance {scale:g} needs a model that was also trained without labels, this one had label_dropout=0; "
            f"{instead}"
        )


#: Options that change guided predictions, and their values without an effect.
_REFINEMENTS = {"guidance_rescale": 0.0, "guidance_parallel": 1.0, "guidance_norm": math.inf}


def check_refinement(scale: float, given: Mapping[str, Any]) -> None:
    """Check that options that change guided predictions come with guidance.

    Args:
        scale: weight of classifier-free guidance; 1 for none.
        given: options of the request by name.
    Raises:
        UsageError: such an option without guidance.
    """
    for name, neutral in _REFINEMENTS.items():
        if scale == 1 and given.get(name, neutral) not in (None, neutral):
            raise UsageError(f"{name}={given[name]:g} changes guided samples, and guidance is 1; add --guidance 3")


def missing_guide_error(weight: float) -> UsageError:
    """The error for autoguidance of a model without a stored guide."""
    return UsageError(
        f"autoguidance {weight:g} needs a model with a guide; this one was trained without guide_images, or has seen "
        "fewer images so far; leave it out"
    )


def check_default_guidance(config: Any) -> None:
    """Check that the model is trained for the guidance in its sampling defaults.

    Raises:
        UsageError: if it is not.
    """
    instead = "set system.sampling.guidance=1, which disables it"
    check_guidance(config.sampling.guidance, is_conditional(config), config.label_dropout, instead)
    if config.sampling.autoguidance != 1 and not _has_guide(config):
        raise UsageError(
            f"sampling.autoguidance={config.sampling.autoguidance:g} needs a guide stored in training; set "
            "system.guide_images=30000 if the system has it, or system.sampling.autoguidance=1"
        )


def _has_guide(config: Any) -> bool:
    return getattr(config, "guide_images", None) is not None or bool(getattr(config, "guide", False))


def check_class_names(class_names: Sequence[str]) -> None:
    """Check that data has classes to train a classifier on.

    Args:
        class_names: class names of the data.
    Raises:
        UsageError: if there are fewer than two classes.
    """
    if len(class_names) < 2:
        raise UsageError(
            f"a classifier needs data with at least 2 classes, got {len(class_names)}; give each class a folder of its "
            "own, or other data with --data"
        )


def check_augment_condition(num_augment_labels: int, what: str = "classifiers") -> None:
    """Check that a model is not conditioned on the augmentation of its training images.

    Args:
        num_augment_labels: number of augmentation labels of the run.
        what: kind of models, for the message.
    Raises:
        UsageError: if it is.
    """
    if num_augment_labels:
        raise UsageError(
            f"augment.condition=true conditions the network on augmentation labels, which {what} do not support; "
            "set augment.condition=false"
        )


def not_a_generator(kind: str = "classifier") -> UsageError:
    """The error for sampling from a model that only guides others.

    Args:
        kind: what it is.
    """
    return UsageError(
        f"this model is a {kind}, which generates no samples; guide another model with it: undiffuse sample MODEL "
        "--classifier FOLDER"
    )


def check_classifier_options(classifier: str | None, given: Mapping[str, Any], cache_interval: int = 1) -> None:
    """Check that options of classifier guidance come with a classifier, and are compatible with feature caching.

    Args:
        classifier: folder of the classifier; None for no guidance.
        given: options that were specified explicitly, by name.
        cache_interval: interval of feature caching.
    Raises:
        UsageError: if they do not, or are not.
    """
    for name in ("classifier_scale", "classifier_through"):
        if classifier is None and given.get(name) is not None:
            raise UsageError(f"{name} {given[name]} needs a classifier; add --classifier FOLDER or leave it out")
    if classifier is not None and given.get("classifier_through") == "x_0" and cache_interval != 1:
        raise UsageError(
            f"cache_interval={cache_interval} cannot be combined with classifier_through x_0; use x_t or leave "
            "cache_interval out"
        )


def check_same_classes(classifier: Sequence[str], model: Sequence[str]) -> None:
    """Check that a classifier knows the classes of the model that it guides.

    Args:
        classifier: class names of the classifier.
        model: class names of the model; empty for an unconditional model, which any classifier may guide.
    Raises:
        UsageError: if the names differ.
    """
    if model and set(model) != set(classifier):
        raise UsageError(
            f"the classifier knows the classes {_shown(classifier)}, the model {_shown(model)}; use a classifier that "
            "was trained on the classes of the model"
        )


def check_noise_aware(noise_aware: bool, through: str) -> None:
    """Check that a contrastive model that guides through x_t knows noisy images.

    Args:
        noise_aware: whether it was trained on noisy images.
        through: value of ``classifier_through``.
    Raises:
        UsageError: if it was not.
    """
    if not noise_aware and through == "x_t":
        raise UsageError(
            "this contrastive model was trained on images without noise and cannot guide through x_t; add "
            "--classifier-through x_0, or use one that was trained with system.noise=true"
        )


def check_template(template: str) -> None:
    """Check a text with a place for the name of a class.

    Raises:
        UsageError: if it has no place.
    """
    if "{}" not in template:
        raise UsageError(
            f"a template needs {{}} for the name of the class, such as 'a photo of a {{}}', got {template!r}"
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
