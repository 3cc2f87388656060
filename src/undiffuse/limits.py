"""Limits of the numbers that users give, stated once: the command line asks them at once, the rooms where they count.

Any room may import this module; it imports nothing heavy.
"""

from __future__ import annotations

import operator

from undiffuse.errors import UsageError

#: The seeds of a training are whole numbers of so many bits, those of images of one more.
TRAINING_SEED_BITS, IMAGE_SEED_BITS = 63, 64


def check_at_least(what: str, value: float, least: int = 1, reason: str = "") -> None:
    """Refuse a number that is too small.

    Args:
        what: it is called.
        reason: why it must not be, after a blank.
    Raises:
        UsageError: says the least.
    """
    if not value >= least:
        raise UsageError(f"{what} must be at least {least}{reason and ' '}{reason}, got {value}")


def check_seed(seed: int, bits: int = IMAGE_SEED_BITS) -> None:
    """Refuse a seed that so many bits do not hold.

    Raises:
        UsageError: says from where to where.
    """
    if not 0 <= seed < 2**bits:
        raise UsageError(f"--seed must be a whole number from 0 to 2**{bits} - 1, got {seed}")


def check_int(what: str, value: object) -> int:
    """A whole number of any kind as an int.

    Args:
        what: it is called.
    Raises:
        UsageError: no number, or none that is whole.
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
