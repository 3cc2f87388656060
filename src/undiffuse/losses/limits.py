"""Ranges of the options of weightings, densities and objectives. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError


def check_gamma(gamma: float) -> None:
    """Refuse a bound on the signal-to-noise ratio that is not above 0."""
    if not gamma > 0:
        raise UsageError(f"min_snr needs gamma > 0, got {gamma}")


def check_variance(variance: str) -> None:
    """Refuse an unknown variance of the reverse step."""
    if variance not in ("beta", "beta_tilde"):
        raise UsageError(f"variational weighting: variance must be 'beta' or 'beta_tilde', got {variance!r}")


def check_std(name: str, std: float) -> None:
    """Refuse a time density without width.

    Args:
        name: the density, for the message.
        std: has to be above 0.
    """
    if not std > 0:
        raise UsageError(f"time density {name!r} needs std > 0, got {std}")


def check_penalties(every: int, **gammas: float) -> None:
    """Refuse penalties of a discriminator that are negative or not finite, or that never come.

    Args:
        every: optimizer steps between two with penalties, at least 1.
        gammas: weight of each penalty by name, at least 0.
    """
    for name, gamma in gammas.items():
        if not 0 <= gamma < float("inf"):
            raise UsageError(f"the penalty {name} must be a number from 0 on, got {gamma}")
    if every < 1:
        raise UsageError(f"penalties are paid every so many steps, at least 1, got {every}")


def check_clip(clip: float) -> None:
    """Refuse a limit of weights that is not positive."""
    if not 0 < clip < float("inf"):
        raise UsageError(f"wgan's clip must be a positive number, got {clip}")
