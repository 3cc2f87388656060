"""Valid ranges of the options of a process. Does not import torch."""

from __future__ import annotations

import math

from undiffuse.errors import UsageError

#: The longest chain: its tables are kept in memory, and each knot is a term of the variational bound.
MAX_STEPS = 100_000
INVALID_BETAS = "betas must be a non-empty list of numbers strictly between 0 and 1"


def check_betas(name: str, beta_min: float, beta_max: float) -> None:
    """Raise UsageError unless the noise rates are positive, ascending and finite.

    Args:
        name: the process, for the message.
        beta_min, beta_max: noise rates at t = 0 and t = 1, 0 < beta_min <= beta_max.
    """
    if not 0 < beta_min <= beta_max < math.inf:
        raise UsageError(f"{name} needs 0 < beta_min <= beta_max, both finite, got {beta_min} and {beta_max}")


def check_steps(num_steps: int, least: int = 1) -> None:
    """Raise UsageError if a chain has too few or too many steps.

    Args:
        num_steps: T, the length of the chain.
        least: minimum number of steps.
    """
    if not least <= num_steps <= MAX_STEPS:
        raise UsageError(f"num_steps must be from {least} to {MAX_STEPS:,}, got {num_steps}")


def check_levels(name: str, sigma_min: float, sigma_max: float) -> None:
    """Raise UsageError unless the noise levels are positive, ascending and finite.

    Args:
        name: the process, for the message.
        sigma_min, sigma_max: smallest and largest level, 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise UsageError(f"{name} needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


def check_positive(name: str, value: float) -> None:
    """Raise UsageError unless a value is positive and finite.

    Args:
        name: the option, for the message.
        value: the value of the option.
    """
    if not 0 < value < math.inf:
        raise UsageError(f"{name} must be positive, got {value}")


def check_linear(beta_start: float, beta_end: float) -> None:
    """Raise UsageError if the ends of evenly spaced betas are out of range.

    Args:
        beta_start, beta_end: beta_1 and beta_T, in (0, 1).
    """
    if not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise UsageError(INVALID_BETAS)


def check_parameterization(name: str, num_steps: int | None) -> None:
    """Raise UsageError if a parameterization is undefined for a process.

    Args:
        name: the parameterization, an entry of ``core.parameterization.PARAMETERIZATIONS``.
        num_steps: T of a discrete chain; None for a continuous process.
    """
    if name == "posterior_mean" and num_steps is None:
        raise UsageError("parameterization 'posterior_mean' needs a process with num_steps, such as 'ddpm_linear'")
    if name == "flow" and num_steps is not None:
        raise UsageError("parameterization 'flow' has no velocity at the knots of a discrete process; use 'v' or 'eps'")


def check_cosine(offset: float, beta_max: float) -> None:
    """Raise UsageError if the options of the cosine schedule are out of range.

    Args:
        offset: s of the paper, at least 0.
        beta_max: upper limit of the betas, in (0, 1).
    """
    if not (0 <= offset < math.inf and 0 < beta_max < 1):
        raise UsageError(f"ddpm_cosine needs offset >= 0 and 0 < beta_max < 1, got {offset} and {beta_max}")
