"""Which settings of an objective go together, as far as they tell by themselves: no mathematics, nothing heavy.

The configurations call these as they are made, and so does the command line before it imports them; ``config`` is the
configuration, or what stands in for it. Rules that ask a process or a parameterization stay with the objectives.
"""

from __future__ import annotations

from typing import Any

from undiffuse.errors import UsageError


def check_objective(config: Any) -> None:
    """Refuse objectives, variances and draws of a diffusion that do not go together.

    Raises:
        UsageError: says which, and what would do.
    """
    objective = config.objective
    if config.learned_variance and objective == "denoising":
        raise UsageError(
            "learned_variance=true with objective='denoising', which trains no variance; say "
            "system.objective=hybrid or system.objective=variational"
        )
    if objective != "denoising" and not config.learned_variance:
        raise UsageError(
            f"objective={objective!r} trains a learned variance; say system.learned_variance=true, or for a fixed one "
            "system.objective=denoising with system.weighting=variational"
        )
    what = f"objective={objective!r}" if objective != "denoising" else "time_draws='importance'"
    if objective == "denoising" and config.time_draws != "importance":
        return
    if (getattr(config.process, "num_steps", None) or 0) < 2 or config.time_density.name != "knots":
        raise UsageError(
            f"{what} needs a process with num_steps of at least 2, such as system.process=ddpm_cosine, and "
            "system.time_density=knots; got "
            f"process={config.process.name} and time_density={config.time_density.name}"
        )


def check_velocities(config: Any) -> None:
    """Refuse another process than the straight one for a mean flow.

    Raises:
        UsageError: says which was given.
    """
    if config.process.name != "flow" or config.parameterization != "flow":
        raise UsageError(
            f"mean_flow knows system.process=flow with system.parameterization=flow, got {config.process.name} with "
            f"{config.parameterization}; leave both out (a teacher may have any)"
        )


def check_knots(config: Any) -> None:
    """Refuse a discretisation of a consistency model that gets coarser.

    Raises:
        UsageError: says both numbers.
    """
    if config.last_knots < config.first_knots:
        raise UsageError(f"last_knots must be at least first_knots, got {config.last_knots} and {config.first_knots}")


def check_stages(config: Any) -> None:
    """Refuse stages that do not halve, and a first one with two teachers or none.

    Raises:
        UsageError: says which.
    """
    doublings, rest = divmod(config.start_steps, config.end_steps)
    if rest or doublings.bit_count() != 1:
        raise UsageError(
            f"start_steps must be end_steps doubled some times, got {config.start_steps} and {config.end_steps}"
        )
    if (config.teacher is None) != (config.base_images > 0):
        raise UsageError(
            f"give either a teacher or base_images above 0 to train one, got base_images={config.base_images} "
            f"{'without' if config.teacher is None else 'with'} a teacher"
        )


#: Adversarial objectives in which an output above 0 says "real"; a test holds them against ``losses.adversarial``.
SIGNED = ("minmax", "non_saturating", "hinge")


def check_adversarial(config: Any) -> None:
    """Refuse settings that an adversarial objective does not go with.

    Raises:
        UsageError: says which, and what would do.
    """
    objective = config.objective
    if config.adaptive is not None and objective.name not in SIGNED:
        raise UsageError(
            "system.adaptive counts outputs that say 'real' by their sign, and those of "
            f"objective={objective.name} have no zero; say system.adaptive=null, or "
            "system.objective=non_saturating or system.objective=hinge"
        )
    if has_penalties(objective) and getattr(config.discriminator, "norm", "none") == "batch":
        raise UsageError(
            f"objective={objective.name} penalises the slope at each image by itself, which batch norm ties to the "
            "others; say system.discriminator.norm=layer, none or spectral, or set its penalties to 0"
        )


def has_penalties(objective: Any) -> bool:
    """Whether the discriminator has gradient penalties under this row's options."""
    return any(getattr(objective, name, 0.0) > 0 for name in ("r1", "r2", "penalty"))
