"""Ranges of the numbers of sampling: one check and one message each, wherever a number comes from.

Imports no torch: a command line is checked before anything heavy is imported.
"""

from __future__ import annotations

import math

from undiffuse.errors import UsageError

#: Every log-SNR there is.
EVERYWHERE = (-math.inf, math.inf)


def check_num_steps(num_steps: int) -> int:
    """Refuse a time grid without a step."""
    if num_steps < 1:
        raise UsageError(f"sampling needs at least 1 step, got {num_steps}")
    return num_steps


def check_temperature(temperature: float) -> float:
    """The temperature, if it is a valid one.

    Raises:
        UsageError: below 0 or not finite.
    """
    if not 0 <= temperature < math.inf:
        raise UsageError(f"the temperature must be a number from 0 on, got {temperature:g}; 1 is that of training")
    return temperature


def check_guidance_weight(weight: float) -> float:
    """Refuse a weight of classifier-free guidance that is negative or not finite."""
    if not 0 <= weight < math.inf:
        raise UsageError(f"guidance must be a number from 0 on, got {weight:g}; 1 is without")
    return weight


def check_autoguidance_weight(weight: float) -> float:
    """Refuse a weight of autoguidance that is negative or not finite."""
    if not 0 <= weight < math.inf:
        raise UsageError(f"autoguidance must be a number from 0 on, got {weight:g}; 1 is without")
    return weight


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """Refuse an interval of log-SNRs that holds nothing."""
    low, high = interval
    if not low < high:
        raise UsageError(f"the guidance interval must be LO,HI in log-SNR with LO < HI, got {low:g},{high:g}")
    return low, high


def check_cache_interval(every: int) -> int:
    """Refuse an interval of feature caching below 1."""
    if every < 1:
        raise UsageError(f"cache_interval must be a whole number of at least 1, got {every}; 1 caches nothing")
    return every


def check_strength(strength: float) -> float:
    """Refuse a share of noise outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise UsageError(f"strength must be a number from 0, the image itself, to 1, noise alone, got {strength:g}")
    return strength
