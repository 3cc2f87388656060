"""Range checks of the options of weightings, densities and objectives. Imports no torch."""

from __future__ import annotations

from undiffuse.errors import UsageError


def check_gamma(gamma: float) -> None:
    """Check that ``gamma``, a bound on the signal-to-noise ratio, is above 0."""
    if not gamma > 0:
        raise UsageError(f"min_snr needs gamma > 0, got {gamma}")


def check_variance(variance: str) -> None:
    """Check that ``variance`` names a known variance of the reverse step."""
    if variance not in ("beta", "beta_tilde"):
        raise UsageError(f"variational weighting: variance must be 'beta' or 'beta_tilde', got {variance!r}")


def check_knots_density(num_steps: int | None) -> None:
    """Check that a process has knots, which the time density ``knots`` draws from.

    Args:
        num_steps: T of a discrete chain; None for a continuous process.
    """
    if num_steps is None:
        raise UsageError("time density 'knots' needs a process with num_steps, such as 'ddpm_linear'; use 'uniform'")


def check_std(name: str, std: float) -> None:
    """Check that the standard deviation of a time density is above 0.

    Args:
        name: the density, for the message.
        std: its standard deviation.
    """
    if not std > 0:
        raise UsageError(f"time density {name!r} needs std > 0, got {std}")


def check_penalties(every: int, **gammas: float) -> None:
    """Check the weights and the interval of a discriminator's penalties.

    Args:
        every: interval between penalised steps in optimizer steps, at least 1.
        gammas: weight of each penalty by name, at least 0.
    """
    for name, gamma in gammas.items():
        if not 0 <= gamma < float("inf"):
            raise UsageError(f"the penalty {name} must be a finite number of at least 0, got {gamma}")
    if every < 1:
        raise UsageError(f"the interval between penalised steps must be at least 1 step, got {every}")


def check_clip(clip: float) -> None:
    """Check that the limit of a discriminator's weights is positive and finite."""
    if not 0 < clip < float("inf"):
        raise UsageError(f"wgan's clip must be a positive number, got {clip}")
