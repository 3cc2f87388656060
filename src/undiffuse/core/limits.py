"""Valid ranges of the sampling options: one check and one error message each, for the API and the command line.

Does not import torch, so that the command line is validated before slow imports.
"""

from __future__ import annotations

import math

from undiffuse.errors import UsageError

#: The interval of all log-SNRs.
ALL_LOG_SNRS = (-math.inf, math.inf)


def check_num_steps(num_steps: int) -> int:
    """Raise UsageError if the number of steps is below 1."""
    if num_steps < 1:
        raise UsageError(f"sampling needs at least 1 step, got {num_steps}")
    return num_steps


def check_temperature(temperature: float) -> float:
    """Raise UsageError if the temperature is negative or not finite."""
    if not 0 <= temperature < math.inf:
        raise UsageError(f"the temperature must be at least 0 and finite, got {temperature:g}; the default is 1")
    return temperature


def check_guidance_weight(weight: float) -> float:
    """Raise UsageError if a weight of classifier-free guidance is negative or not finite."""
    if not 0 <= weight < math.inf:
        raise UsageError(f"guidance must be at least 0 and finite, got {weight:g}; 1 disables it")
    return weight


def check_autoguidance_weight(weight: float) -> float:
    """Raise UsageError if a weight of autoguidance is negative or not finite."""
    if not 0 <= weight < math.inf:
        raise UsageError(f"autoguidance must be at least 0 and finite, got {weight:g}; 1 disables it")
    return weight


def check_guidance_rescale(rescale: float) -> float:
    """Raise UsageError if the fraction of rescaling guided predictions is outside [0, 1]."""
    if not 0 <= rescale <= 1:
        raise UsageError(f"guidance_rescale must be a number from 0 (none) to 1, got {rescale:g}")
    return rescale


def check_guidance_parallel(factor: float) -> float:
    """Raise UsageError if the factor of the parallel part of guidance is outside [0, 1]."""
    if not 0 <= factor <= 1:
        raise UsageError(f"guidance_parallel must be a number from 0 to 1 (unchanged), got {factor:g}")
    return factor


def check_guidance_norm(norm: float) -> float:
    """Raise UsageError if the largest root mean square of a guidance difference is not above 0."""
    if not norm > 0:
        raise UsageError(f"guidance_norm must be above 0, got {norm:g}; inf is no limit")
    return norm


#: Kinds of thresholds of x_0-hat, and the default quantile of a dynamic one (Saharia et al. 2022, appendix).
THRESHOLDS, DYNAMIC_QUANTILE = ("none", "static", "dynamic"), 0.995


def parse_threshold(text: str) -> tuple[str, float]:
    """The kind and the quantile of a threshold such as ``dynamic:0.99``; the quantile is 0 unless it is dynamic.

    Args:
        text: ``none``, ``static``, ``dynamic`` or ``dynamic:QUANTILE``.
    Raises:
        UsageError: another kind, or a quantile outside (0, 1].
    """
    kind, colon, number = str(text).strip().partition(":")
    if kind not in THRESHOLDS or (colon and kind != "dynamic"):
        raise UsageError(f"threshold must be none, static, dynamic or dynamic:QUANTILE, got {text!r}")
    try:
        quantile = float(number) if colon else DYNAMIC_QUANTILE
    except ValueError:
        quantile = math.nan
    if not 0 < quantile <= 1:
        raise UsageError(f"the quantile of a dynamic threshold must be above 0 and at most 1, got {text!r}")
    return kind, quantile if kind == "dynamic" else 0.0


def check_threshold(text: str) -> str:
    """Raise UsageError if a threshold cannot be parsed."""
    parse_threshold(text)
    return text


#: Where the gradient of classifier guidance comes from: the classifier at x_t, or denoiser and classifier at x_0-hat.
CLASSIFIER_INPUTS = ("x_t", "x_0")


def check_classifier_scale(scale: float) -> float:
    """Raise UsageError if a scale of classifier guidance is negative or not finite."""
    if not 0 <= scale < math.inf:
        raise UsageError(f"classifier_scale must be at least 0 and finite, got {scale:g}; 0 disables it")
    return scale


def check_classifier_through(through: str) -> str:
    """Raise UsageError if the input of the classifier is neither x_t nor x_0."""
    if through not in CLASSIFIER_INPUTS:
        raise UsageError(f"classifier_through must be x_t or x_0, got {through!r}; the default is x_t")
    return through


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """Raise UsageError if an interval of log-SNRs is empty."""
    low, high = interval
    if not low < high:
        raise UsageError(f"the guidance interval must be LO,HI in log-SNR with LO < HI, got {low:g},{high:g}")
    return low, high


def check_cache_interval(every: int) -> int:
    """Raise UsageError if the interval of feature caching is below 1."""
    if every < 1:
        raise UsageError(f"cache_interval must be a whole number of at least 1, got {every}; 1 disables caching")
    return every


def check_strength(strength: float) -> float:
    """Raise UsageError if the strength (fraction of noise) is outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise UsageError(f"strength must be a number from 0 (the image itself) to 1 (pure noise), got {strength:g}")
    return strength
