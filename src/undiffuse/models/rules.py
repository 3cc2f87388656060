"""Which settings of a model go together, as far as they tell by themselves: no mathematics, nothing heavy imported.

The configurations call these as they are made, and so does the command line before it imports them; ``config`` is the
configuration, or what stands in for it. Rules that ask a process or a parameterization stay with the models.
"""

from __future__ import annotations

from typing import Any

from undiffuse.errors import UsageError


def check_guidance(scale: float, class_conditional: bool, label_dropout: float, instead: str = "leave it out") -> None:
    """Refuse guidance of a model that was not trained both with classes and without.

    Args:
        scale: of classifier-free guidance; 1 is none.
        class_conditional: whether the model is conditioned on classes.
        label_dropout: share of its training samples without their label.
        instead: what to do, for a message; a request is left out, a configuration says 1.
    Raises:
        UsageError: says why, and what would do.
    """
    if scale == 1:
        return
    if not class_conditional:
        raise UsageError(f"guidance {scale:g} needs a model trained with classes, this one was not; {instead}")
    if label_dropout == 0:
        raise UsageError(
            f"guidance {scale:g} needs a model that was also trained without labels, this one had label_dropout=0; "
            f"{instead}"
        )


def no_guide(weight: float) -> UsageError:
    """The error of autoguidance of a model that has no guide, or not yet."""
    return UsageError(
        f"autoguidance {weight:g} needs a model with a guide; this one was trained without guide_images, or "
        "has not seen so many yet; leave it out"
    )


def check_guiding(config: Any) -> None:
    """Refuse defaults of sampling that guide by what the model is not trained for.

    Raises:
        UsageError: says what it would have to be trained for.
    """
    instead = "say system.sampling.guidance=1, which is none"
    check_guidance(config.sampling.guidance, bool(config.class_conditional), config.label_dropout, instead)
    if config.sampling.autoguidance != 1 and not _has_guide(config):
        raise UsageError(
            f"sampling.autoguidance={config.sampling.autoguidance:g} needs a guide kept in training; say "
            "system.guide_images=30000 on a system that has it, or system.sampling.autoguidance=1"
        )


def _has_guide(config: Any) -> bool:
    return getattr(config, "guide_images", None) is not None or bool(getattr(config, "guide", False))
