"""Compatibility checks of an objective's settings that need no heavy imports.

Called by the configurations' validators, and by the command line before it imports them; ``config`` is the
configuration or an object with the same attributes. Checks that need a process or a parameterization are in the
objectives' modules.
"""

from __future__ import annotations

from typing import Any

from undiffuse.errors import UsageError
from undiffuse.losses.limits import check_knots_density
from undiffuse.models.rules import num_steps_of


def check_objective(config: Any) -> None:
    """Check that objective, learned variance and time draws of a diffusion are compatible.

    Raises:
        UsageError: if they are not.
    """
    objective = config.objective
    if config.learned_variance and objective == "denoising":
        raise UsageError(
            "learned_variance=true with objective='denoising', which does not train the variance; use "
            "system.objective=hybrid or system.objective=variational"
        )
    if objective != "denoising" and not config.learned_variance:
        raise UsageError(
            f"objective={objective!r} needs a learned variance; set system.learned_variance=true, or for a fixed one "
            "system.objective=denoising with system.weighting=variational"
        )
    what = f"objective={objective!r}" if objective != "denoising" else "time_draws='importance'"
    if objective == "denoising" and config.time_draws != "importance":
        return
    if (num_steps_of(config.process) or 0) < 2 or config.time_density.name != "knots":
        raise UsageError(
            f"{what} needs a process with num_steps of at least 2, such as system.process=ddpm_cosine, and "
            "system.time_density=knots; got "
            f"process={config.process.name} and time_density={config.time_density.name}"
        )


def check_density(config: Any) -> None:
    """Check that the density of the training times is defined for the process.

    Raises:
        UsageError: if it is not.
    """
    if config.time_density.name == "knots":
        check_knots_density(num_steps_of(config.process))


def check_velocities(config: Any) -> None:
    """Check that a mean flow has the process and parameterization ``flow``.

    Raises:
        UsageError: if they differ.
    """
    if config.process.name != "flow" or config.parameterization != "flow":
        raise UsageError(
            f"mean_flow needs system.process=flow with system.parameterization=flow, got {config.process.name} with "
            f"{config.parameterization}; leave both out (a teacher may have any)"
        )


def check_knots(config: Any) -> None:
    """Check that the discretisation of a consistency model does not get coarser.

    Raises:
        UsageError: if ``last_knots`` is less than ``first_knots``.
    """
    if config.last_knots < config.first_knots:
        raise UsageError(f"last_knots must be at least first_knots, got {config.last_knots} and {config.first_knots}")


def check_stages(config: Any) -> None:
    """Check that the stages halve the steps, and that there is exactly one source of the first teacher.

    Raises:
        UsageError: if not.
    """
    doublings, rest = divmod(config.start_steps, config.end_steps)
    if rest or doublings.bit_count() != 1:
        raise UsageError(
            f"start_steps must be end_steps times a power of two, got {config.start_steps} and {config.end_steps}"
        )
    if (config.teacher is None) != (config.base_images > 0):
        raise UsageError(
            f"give either a teacher or base_images above 0 to train one, got base_images={config.base_images} "
            f"{'without' if config.teacher is None else 'with'} a teacher"
        )


#: Adversarial objectives in which a positive output means "real"; a test compares them with ``losses.adversarial``.
SIGNED = ("minmax", "non_saturating", "hinge")


def check_adversarial(config: Any) -> None:
    """Check that adaptive augmentation and normalization are compatible with the adversarial objective.

    Raises:
        UsageError: if they are not.
    """
    objective = config.objective
    if config.adaptive is not None and objective.name not in SIGNED:
        raise UsageError(
            "system.adaptive uses the sign of the outputs, whose threshold is not 0 with "
            f"objective={objective.name}; set system.adaptive=null, or "
            "system.objective=non_saturating or system.objective=hinge"
        )
    if has_penalties(objective) and getattr(config.discriminator, "norm", "none") == "batch":
        raise UsageError(
            f"objective={objective.name} penalises per-image gradients, which batch norm makes depend on the other "
            "images; set system.discriminator.norm=layer, none or spectral, or set its penalties to 0"
        )


def has_penalties(objective: Any) -> bool:
    """Whether the objective's options include a gradient penalty of the discriminator."""
    return any(getattr(objective, name, 0.0) > 0 for name in ("r1", "r2", "penalty"))
