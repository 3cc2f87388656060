"""Time grids: descending times for a number of steps, ending at 0.

Grids in the log-SNR or the noise ratio sigma / alpha are limited to the denoiser's log-SNR range of training and to
[-2 log 80, 2 log 500] (EDM's sigma from 80 down to 0.002); their last step goes from the end of this range to 0. If
alpha(1) = 0 they start with one exact DDIM step from t = 1 to the grid's first knot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from undiffuse.core.limits import check_num_steps
from undiffuse.core.process import Process
from undiffuse.errors import UsageError
from undiffuse.registry import lookup, parse_row_options

#: The widest log-SNR range of the grids that are not uniform in t (EDM's sigma_max = 80 and sigma_min = 0.002).
WIDEST_LOG_SNR = (-2 * math.log(80), 2 * math.log(500))

#: The assumed gap between knots if there is a single knot.
_DEFAULT_GAP = 2.0

Range = tuple[float, float]


def time_grid(
    name: str,
    process: Process,
    num_steps: int,
    log_snr_range: Range = (-math.inf, math.inf),
    **options: float | tuple[float, ...],
) -> Tensor:
    """Descending times of a sampling run, by the name of a grid.

    Args:
        name: a key of ``GRIDS``, optionally with options after a colon: ``karras:rho=5``.
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training.
        options: options of the grid, such as ``rho`` of ``karras``.
    Returns:
        (K + 1,) float64, descending to 0.
    Raises:
        UsageError: an unknown grid or option, an invalid value, or fewer than one step.
    Example:
        >>> from undiffuse.core.processes import FlowProcess
        >>> time_grid("uniform", FlowProcess(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_num_steps(num_steps)
    name, _, rest = name.partition(":")
    grid = lookup(GRIDS, name, "time grid")
    written = parse_row_options(grid, rest, name, "time grid", _option)
    times: Tensor = grid(process, num_steps, log_snr_range, **written, **options)
    return times


def inner_log_snrs(process: Process, times: Tensor) -> Tensor:
    """Log-SNRs of a grid without its ends, the knots of ``through``.

    Args:
        process: the forward process.
        times: (K + 1,) descending.
    Returns:
        (K - 1,) float64.
    """
    return process.log_snr(times[1:-1])


def knots_spec(log_snrs: Sequence[float]) -> str:
    """The specification of the grid through these inner knots, with three decimals: ``through:knots=...``."""
    return f"through:knots={'/'.join(f'{knot:.3f}' for knot in log_snrs)}"


def _option(text: str, default: float | tuple[float, ...], what: str) -> float | tuple[float, ...]:
    return _knots(text, what) if isinstance(default, tuple) else _positive(text, what)


def _knots(text: str, what: str) -> tuple[float, ...]:
    try:
        knots = tuple(float(part) for part in text.split("/") if text)
    except ValueError:
        knots = (math.nan,)
    ascending = all(low < high for low, high in pairwise(knots))
    if not ascending or not all(map(math.isfinite, knots)):
        raise UsageError(f"{what} must be ascending log-SNRs such as -4/-1.5/0/2, got {text!r}")
    return knots


def _positive(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"{what} must be a number above 0, got {text!r}")
    return number


def _first_time(process: Process, log_snr_range: Range) -> Tensor:
    return process.time_of_log_snr(torch.tensor([log_snr_range[0]], dtype=torch.float64))


def uniform(process: Process, num_steps: int, log_snr_range: Range) -> Tensor:
    """Evenly spaced in t; with T steps the knots of a chain of T steps.

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training; the grid starts at the smallest.
    """
    return _first_time(process, log_snr_range) * torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps


def quadratic(process: Process, num_steps: int, log_snr_range: Range) -> Tensor:
    """Evenly spaced in sqrt(t), denser near the data (Song et al. 2021, arXiv:2010.02502, appendix D.2).

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training; the grid starts at the smallest.
    """
    return _first_time(process, log_snr_range) * (torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps) ** 2


def log_snr(process: Process, num_steps: int, log_snr_range: Range) -> Tensor:
    """Evenly spaced in the log-SNR (Lu et al. 2022, arXiv:2206.00927), then one step to 0.

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training, which limits the grid.
    """
    return _inner_grid(process, num_steps, log_snr_range, lambda low, high, u: low + u * (high - low))


def karras(process: Process, num_steps: int, log_snr_range: Range, rho: float = 7.0) -> Tensor:
    """Evenly spaced in (sigma / alpha)^(1 / rho) (Karras et al. 2022, arXiv:2206.00364, eq. 5), then one step to 0.

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training, which limits the grid.
        rho: above 0; larger values put more steps near the data.
    """

    def spread(low: float, high: float, u: Tensor) -> Tensor:
        first, last = math.exp(-low / 2 / rho), math.exp(-high / 2 / rho)
        return -2 * rho * torch.log(first + u * (last - first))

    return _inner_grid(process, num_steps, log_snr_range, spread)


def angle(process: Process, num_steps: int, log_snr_range: Range) -> Tensor:
    """Evenly spaced in atan(sigma / alpha); for one to four steps, which other grids place where x changes little.

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training, which limits the grid.
    Source: the time of Lu & Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
        arXiv:2410.11081, sec. 3.1, whose second of two steps is then halfway.
    """
    first, zero = _first_time(process, log_snr_range), torch.zeros(1, dtype=torch.float64)
    high = min(log_snr_range[1], float(process.log_snr(zero)), WIDEST_LOG_SNR[1])
    start, end = torch.atan2(process.sigma(first), process.alpha(first)), math.atan(math.exp(-high / 2))
    inner = start + (end - start) * torch.arange(1, num_steps, dtype=torch.float64) / num_steps
    return torch.cat([first, process.time_of_log_snr(-2 * torch.log(torch.tan(inner))), zero])


def through(process: Process, num_steps: int, log_snr_range: Range, knots: tuple[float, ...] = ()) -> Tensor:
    """Through given inner knots, such as those of ``undiffuse export --tune-steps``: ``through:knots=-3/-1/0.5/2``.

    With one step more than knots, the knots are used unchanged; for other numbers of steps they are interpolated
    linearly, as in Sabour et al. 2024, "Align Your Steps", arXiv:2404.14507, sec. 3.4. Without knots it is ``log_snr``.

    Args:
        process: the forward process.
        num_steps: K, at least 1.
        log_snr_range: (smallest, largest) log-SNR of training; the grid starts at the smallest.
        knots: ascending log-SNRs between the first time and 0.
    Raises:
        UsageError: knots outside the range between the first and the last time.
    """
    if not knots:
        return log_snr(process, num_steps, log_snr_range)
    ends = torch.cat([_first_time(process, log_snr_range), torch.zeros(1, dtype=torch.float64)])
    inner = torch.tensor(knots, dtype=torch.float64)
    if num_steps != len(knots) + 1:
        inner = _interpolated(inner, process.log_snr(ends), num_steps)
    times = torch.cat([ends[:1], process.time_of_log_snr(inner), ends[1:]])
    if not bool((times[1:] < times[:-1]).all()):
        low, high = process.log_snr(ends).tolist()
        raise UsageError(
            f"the grid's knots {knots[0]:.4g} ... {knots[-1]:.4g} must be between the ends, log-SNR {low:.4g} and "
            f"{high:.4g}; use another grid, such as log_snr"
        )
    return times


def _interpolated(knots: Tensor, ends: Tensor, num_steps: int) -> Tensor:
    """``num_steps - 1`` knots by linear interpolation; infinite ends are extrapolated linearly."""
    gap = knots.diff() if len(knots) > 1 else torch.full((1,), _DEFAULT_GAP, dtype=torch.float64)
    first = torch.where(ends[:1].isfinite(), ends[:1], knots[:1] - gap[:1])
    last = torch.where(ends[1:].isfinite(), ends[1:], knots[-1:] + gap[-1:])
    line = torch.cat([first, knots, last])
    position = torch.arange(1, num_steps, dtype=torch.float64) * (len(line) - 1) / num_steps
    below = position.long().clamp(max=len(line) - 2)
    return line[below] + (position - below) * (line[below + 1] - line[below])


def _inner_grid(
    process: Process, num_steps: int, log_snr_range: Range, spread: Callable[[float, float, Tensor], Tensor]
) -> Tensor:
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    process_low, process_high = (float(value) for value in process.log_snr(ends))
    low = max(log_snr_range[0], process_low, WIDEST_LOG_SNR[0])
    high = min(log_snr_range[1], process_high, WIDEST_LOG_SNR[1])
    starts_without_signal = process_low == -math.inf and log_snr_range[0] == -math.inf
    reaches_zero = high == process_high  # noise remains at t = 0: the even spacing ends there
    num_knots = num_steps + int(reaches_zero) - int(starts_without_signal)
    u = torch.linspace(0, 1, num_knots, dtype=torch.float64) if num_knots > 1 else torch.zeros(num_knots).double()
    inner = process.time_of_log_snr(spread(low, high, u))
    inner = inner[:-1] if reaches_zero else inner  # its last time is 0 up to rounding
    return torch.cat([ends[:1] if starts_without_signal else ends[:0], inner, ends[1:]])


GRIDS = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
    "angle": angle,
    "through": through,
}
