"""The terminal noise level: whether a process ends in pure noise, the resulting error, and options that avoid it.

At time t a process has x_t = alpha x_0 + sigma eps; sampling starts from N(0, p^2 I) instead, p = ``start_std(t)``. For
Gaussian data of standard deviation s and an exact model, with M = alpha^2 s^2 + sigma^2 the variance of x_t, samples
have the standard deviation

    s p / sqrt(M)                                 with the probability-flow ODE, which maps x_t to (s / sqrt(M)) x_t,
    sqrt((alpha s^2 p / M)^2 + s^2 sigma^2 / M)   with the reverse SDE, which draws from q(x_0 | x_t),

which is s if and only if p^2 = M; a mean m of the data is reduced by alpha m s / sqrt(M). Residual signal makes samples
wider if p > sqrt(M) (variance preserving, s < 1) and narrower if p < sqrt(M) (variance exploding). For data of zero
mean and unit variance a variance-preserving chain of any length causes no error.

Source: Song et al. 2021, arXiv:2011.13456, secs. 3.3 and 4.3, for a Gaussian; Lin et al. 2024, "Common Diffusion Noise
Schedules and Sample Steps are Flawed", arXiv:2305.08891, sec. 3.1 (terminal SNR).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import UsageError
from undiffuse.registry import lookup, parse_row_options, resolve

#: The largest log-SNR that counts as pure noise: 13% of the amplitude is signal.
NOISE_LOG_SNR = -4.0
#: Error of the samples' standard deviation or mean that causes no warning, relative to the data's standard deviation.
TOLERANCE = 0.05
#: Options that lower the terminal SNR, each with the largest value tried; a process has only some of them.
_LONGER = {"num_steps": 100_000, "beta_end": 0.9, "beta_max": 1e4, "sigma_max": 1e6}


@dataclass(frozen=True)
class TerminalNoise:
    """``alpha`` and ``sigma`` at the start of sampling, and the standard deviation ``std`` of the initial noise."""

    alpha: float
    sigma: float
    std: float

    @property
    def log_snr(self) -> float:
        """2 log(alpha / sigma); -inf without residual signal."""
        return 2 * math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def signal(self) -> float:
        """alpha / sqrt(alpha^2 + sigma^2), the signal's fraction of the amplitude."""
        return self.alpha / math.hypot(self.alpha, self.sigma)

    def is_noise(self, scale: float = 1.0) -> bool:
        """Whether the terminal log-SNR is low enough to count as pure noise.

        Args:
            scale: root mean square of the data; below 1 it counts as 1.
        """
        return self.log_snr + 2 * math.log(max(scale, 1.0)) <= NOISE_LOG_SNR

    def deviations(self, data: float) -> tuple[float, float]:
        """Standard deviations of an exact model's samples for Gaussian data, with (the reverse SDE, the ODE).

        Args:
            data: standard deviation of the data.
        """
        variance = (self.alpha * data) ** 2 + self.sigma**2
        signal = self.alpha * data**2 * self.std / variance
        return math.hypot(signal, data * self.sigma / math.sqrt(variance)), data * self.std / math.sqrt(variance)

    def biases_samples(self, data: float, mean: float = 0.0) -> bool:
        """Whether residual signal would visibly bias samples of Gaussian data.

        Args:
            data: standard deviation of the data.
            mean: mean of the data.
        """
        if self.is_noise(math.hypot(data, mean)):
            return False
        mean_error = self.alpha * abs(mean) / math.hypot(self.alpha * data, self.sigma)
        std_error = max(abs(std - data) for std in self.deviations(data)) / max(data, 1e-12)
        return max(mean_error, std_error) > TOLERANCE

    def consequence(self, data: float) -> str:
        """The terminal log-SNR and the standard deviations of samples, as text.

        Args:
            data: standard deviation of the data.
        """
        sde, ode = self.deviations(data)
        return (
            f"log-SNR {self.log_snr:+.2f}, where {100 * self.signal:.0f}% of the amplitude is signal; sampling starts "
            f"from pure noise, so for data with standard deviation {data:.2g} samples of an exact model have {sde:.2g} "
            f"with stochastic samplers and {ode:.2g} with the ODE"
        )


def terminal_noise(process: Process, time: float = 1.0) -> TerminalNoise:
    """The noise level at which sampling with a process starts.

    Args:
        process: the forward process.
        time: first time of the grid, in (0, 1].
    """
    t = torch.tensor([time], dtype=torch.float64)
    return TerminalNoise(float(process.alpha(t)), float(process.sigma(t)), process.start_std(time))


def options_ending_in_noise(
    row: Any, options: Mapping[str, Any], scale: float = 1.0, limit: float = NOISE_LOG_SNR
) -> dict[str, float]:
    """The smallest value of each single option, to two digits, with which this process ends in pure noise.

    Args:
        row: an entry of ``PROCESSES``.
        options: current options of the process.
        scale: root mean square of the data.
        limit: the largest terminal log-SNR that counts as pure noise.
    Returns:
        Mapping of option to value; options that do not suffice alone are left out.
    """
    factory = resolve(row)
    known = inspect.signature(factory).parameters
    found: dict[str, float] = {}
    for key in known.keys() & _LONGER.keys():
        whole = isinstance(known[key].default, int)

        def ends(value: float, key: str = key, whole: bool = whole) -> bool:
            try:
                process = factory(**{**options, key: int(value) if whole else value})
            except UsageError:
                return False
            return terminal_noise(process).log_snr + 2 * math.log(max(scale, 1.0)) <= limit

        value = _smallest(ends, float(options.get(key, known[key].default)), _LONGER[key])
        if value is not None:
            found[key] = int(value) if whole else value
    return dict(sorted(found.items(), key=lambda item: list(_LONGER).index(item[0])))


def specs_ending_in_noise(spec: str) -> list[str]:
    """``name:option=value`` for each single option with which ``spec`` ends in pure noise."""
    name, _, text = spec.partition(":")
    row = lookup(PROCESSES, name, "process")
    options = parse_row_options(row, text, name, "process")
    found = options_ending_in_noise(row, options)
    changed = [{**options, key: value} for key, value in found.items()]
    return [f"{name}:{','.join(f'{key}={value:g}' for key, value in row.items())}" for row in changed]


def _smallest(ends: Callable[[float], bool], low: float, most: float) -> float | None:
    """The smallest two-digit number in (low, most] for which ``ends`` is true; ``ends`` must be monotonic."""
    if low >= most or not ends(most):
        return None
    high = most
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if ends(middle) else (middle, high)
    unit = 10.0 ** (math.floor(math.log10(high)) - 1)
    rounded = float(f"{math.ceil(high / unit) * unit:.2g}")
    return rounded if ends(rounded) else most
