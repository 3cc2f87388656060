"""Checks of numeric arguments, shared by the command line, which runs them first, and the code that uses the numbers.

Any package may import this module; it imports nothing heavy.
"""

from __future__ import annotations

import operator

from undiffuse.errors import UsageError

#: Bits of the seeds of training runs and of images.
TRAINING_SEED_BITS, IMAGE_SEED_BITS = 63, 64


def check_at_least(what: str, value: float, least: int = 1, reason: str = "") -> None:
    """Check that a number is not below a minimum.

    Args:
        what: name of the number, for the message.
        value: the number.
        least: the minimum.
        reason: why it has this minimum, for the message.
    Raises:
        UsageError: ``value`` is below ``least``.
    """
    if not value >= least:
        raise UsageError(f"{what} must be at least {least}{reason and ' '}{reason}, got {value}")


def check_seed(seed: int, bits: int = IMAGE_SEED_BITS) -> None:
    """Check that a seed is an unsigned integer of at most ``bits`` bits.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= seed < 2**bits:
        raise UsageError(f"--seed must be a whole number from 0 to 2**{bits} - 1, got {seed}")


def check_int(what: str, value: object) -> int:
    """Convert any integer type to ``int``.

    Args:
        what: name of the number, for the message.
        value: the number, such as a NumPy integer.
    Raises:
        UsageError: ``value`` is not an integer.
    Example:
        >>> check_int("steps", 3)
        3
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{what} must be a whole number, got {value!r}") from None
