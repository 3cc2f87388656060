"""Seeds of images: image i has its own. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError


def check_seeds(seed: int, num: int) -> range:
    """Seeds ``seed`` ... ``seed + num - 1``.

    Raises:
        UsageError: no sample is asked for, or a seed that 64 bits do not hold.
    """
    if num < 1:
        raise UsageError(f"at least 1 sample must be asked for, got {num}")
    if not 0 <= seed <= 2**64 - num:
        raise UsageError(f"the seed must be a whole number from 0 to 2**64 - 1, got {seed}")
    return range(seed, seed + num)
