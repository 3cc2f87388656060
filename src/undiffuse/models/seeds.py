"""Seeds of samples, one per sample. Has no heavy imports."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.limits import check_int

#: Maximum number of samples, since names, seeds and costs of all samples are held in memory.
MOST_SAMPLES = 1_000_000


def check_seeds(seed: int, num: int) -> range:
    """Check and return the seeds ``seed`` ... ``seed + num - 1``.

    Args:
        seed: seed of the first sample, from 0 to 2**64 - num.
        num: number of samples, at least 1.
    Raises:
        UsageError: if the number of samples or the seed is out of range.
    """
    seed, num = check_int("seed", seed), check_int("the number of samples", num)
    if num < 1:
        raise UsageError(f"the number of samples must be at least 1, got {num}")
    if num > MOST_SAMPLES:
        raise UsageError(
            f"at most {MOST_SAMPLES:,} samples can be requested at once, got {num:,}; split the request by seeds"
        )
    if not 0 <= seed <= 2**64 - num:
        raise UsageError(f"the seed must be a whole number from 0 to 2**64 - 1, got {seed}")
    return range(seed, seed + num)
