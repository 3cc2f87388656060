"""Seeds of images: image i has its own. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.limits import check_int

#: Names, seeds and costs of all are held in memory while they are made.
MOST_SAMPLES = 1_000_000


def check_seeds(seed: int, num: int) -> range:
    """Seeds ``seed`` ... ``seed + num - 1``.

    Args:
        seed: of the first sample, from 0 to 2**64 - num.
        num: of the samples, at least 1.
    Raises:
        UsageError: no sample is asked for, too many, or a seed that 64 bits do not hold.
    """
    seed, num = check_int("seed", seed), check_int("the number of samples", num)
    if num < 1:
        raise UsageError(f"at least 1 sample must be asked for, got {num}")
    if num > MOST_SAMPLES:
        raise UsageError(
            f"at most {MOST_SAMPLES:,} samples are made at once, got {num:,}; ask for parts, each from a later seed"
        )
    if not 0 <= seed <= 2**64 - num:
        raise UsageError(f"the seed must be a whole number from 0 to 2**64 - 1, got {seed}")
    return range(seed, seed + num)
