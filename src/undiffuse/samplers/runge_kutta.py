"""An adaptive Runge-Kutta solver with a step size per sample.

The Dormand-Prince pair: order 5, with an error estimate of order 4 from the same evaluations. Its last stage is the
first stage of the next step, so a step costs six evaluations, accepted or not. With one step size for the whole batch
samples would depend on each other; here only the test for the end of the loop involves the whole batch, and sums over a
sample's elements are computed in an order that does not depend on the batch size.

Source: Dormand & Prince 1980, J. Comp. Appl. Math. 6(1); Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential
Equations I", sec. II.4 (step size control and first step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.core.rows import per_row, where_rows
from undiffuse.errors import RunError, UsageError

#: The integrated state: tensors (B, ...).
State: TypeAlias = tuple[Tensor, ...]
#: (log-SNR (B,), state) -> d state / d log-SNR, of the shapes of the state.
Field: TypeAlias = Callable[[Tensor, State], State]

#: Called with the completed fraction, in [0, 1].
ProgressCallback: TypeAlias = Callable[[float], None]

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution of order 5
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # order 5 less order 4
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
_SMALLEST_STEP = 1e-10


class ODESolution(NamedTuple):
    """The final state, the NFE of each sample, and its next step size, ``(B,)``."""

    state: State
    nfe: Tensor
    step: Tensor


@dataclass
class _Rows:
    """The state of each sample: all entries (B,) or (B, ...)."""

    log_snr: Tensor
    state: State
    slope: State
    step: Tensor  # the size to try next, positive
    nfe: Tensor


def integrate(
    rhs: Field,
    start: Tensor,
    end: Tensor,
    state: State,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_evaluations: int = 10_000,
    first_step: float | Tensor | None = None,
    first_slope: State | None = None,
    on_progress: ProgressCallback | None = None,
    count_for: Callable[[Tensor], None] | None = None,
    nan_if_stuck: bool = False,
) -> ODESolution:
    """Solve d state / d lambda = rhs(lambda, state) from ``start`` to ``end`` with step sizes per sample.

    A step is accepted if, for each tensor of the state, the root mean square over the sample's elements of
    error / (atol + rtol max(|before|, |after|)) is at most 1. Finished samples are not changed; they remain part of the
    batch passed to ``rhs``, at ``end``.

    Args:
        rhs: (lambda (B,) float64, state) -> derivative, per sample.
        start: (B,) log-SNR, finite.
        end: (B,) log-SNR, on either side of ``start``; a sample with end = start does not move.
        state: tensors (B, ...).
        rtol, atol: relative and absolute tolerance of one step, positive.
        max_evaluations: the largest NFE of a sample.
        first_step: initial step size, one number or (B,); estimated (one more evaluation) if it is None or NaN.
        first_slope: rhs(start, state) if it is already known, which saves one evaluation.
        on_progress: called after each attempt with the completed fraction of the slowest sample.
        count_for: called before ``rhs`` with a mask (B,) of the samples that need the evaluation.
        nan_if_stuck: set a sample that gets stuck to NaN and continue with the others; by default raise an error.
    Returns:
        The state at ``end``; the NFE of each sample, (B,) int64; the next step size of each sample.
    Raises:
        UsageError: a tolerance that is not positive.
        RunError: a sample needs more evaluations, or steps too small to change its log-SNR.
    Source: Dormand & Prince 1980; Hairer, Norsett & Wanner 1993, sec. II.4.
    """
    if not (rtol > 0 and atol > 0):
        raise UsageError(f"rtol and atol must be above 0, got {rtol} and {atol}")
    start, end = start.double(), end.double()
    step, nfe = _as_rows(first_step, start), (start != end).long()
    if not bool(nfe.any()):
        return ODESolution(state, nfe, step)
    count_for = count_for if count_for is not None else _ignore_count
    if first_slope is None:
        count_for(start != end)
    slope = first_slope if first_slope is not None else rhs(start, state)
    rows = _Rows(start, state, slope, step, nfe * (first_slope is None))
    _guess_first_steps(rhs, rows, end, rtol, atol, count_for)
    while bool((active := rows.log_snr != end).any()):
        if bool((stuck := _stuck(rows, end, active, max_evaluations)).any()):
            if not nan_if_stuck:
                raise _stuck_error(rows, end, stuck, max_evaluations)
            rows.log_snr = torch.where(stuck, end, rows.log_snr)
            rows.state = _where(stuck, tuple(torch.full_like(value, torch.nan) for value in rows.state), rows.state)
            active = active & ~stuck
            if not bool(active.any()):
                break
        count_for(active)
        _attempt_step(rhs, rows, end, active, rtol, atol)
        if on_progress is not None:
            on_progress(_min_progress(start, rows.log_snr, end))
    return ODESolution(rows.state, rows.nfe, rows.step)


def _ignore_count(rows: Tensor) -> None:
    """The default ``count_for``, which does nothing."""


def _min_progress(start: Tensor, log_snr: Tensor, end: Tensor) -> float:
    """The completed fraction of the slowest sample."""
    fractions = (log_snr - start) / (end - start)
    return float(fractions[start != end].min())


def _as_rows(first_step: float | Tensor | None, like: Tensor) -> Tensor:
    size = torch.nan if first_step is None else first_step
    return torch.as_tensor(size, dtype=torch.float64, device=like.device).abs().expand_as(like).clone()


def _attempt_step(rhs: Field, rows: _Rows, end: Tensor, active: Tensor, rtol: float, atol: float) -> None:
    """Attempt one step of every active sample, with six evaluations."""
    remaining = end - rows.log_snr
    last = remaining.abs() <= rows.step * (1 + 1e-9)
    signed = torch.where(last, remaining, torch.copysign(rows.step, remaining))
    signed = torch.where(active, signed, torch.zeros_like(signed))
    arrival = torch.where(last & active, end, rows.log_snr + signed)  # exactly the end, without rounding errors
    slopes, after = [rows.slope], rows.state
    for node, weights in zip(_NODES, _STAGES, strict=True):
        after = _moved(rows.state, signed, weights, slopes)
        slopes.append(rhs(arrival if node == 1 else rows.log_snr + node * signed, after))
    error2 = _error2(_moved(None, signed, _ERROR, slopes), rows.state, after, rtol, atol)
    accepted = active & (error2 <= 1)  # NaN errors are not accepted
    proposed = signed.abs() * _factor(error2)
    # a last step that was shortened to hit the end does not reduce the step size
    proposed = torch.where(accepted & last, torch.maximum(proposed, rows.step), proposed)
    rows.step = torch.where(active, proposed, rows.step)
    rows.nfe = rows.nfe + 6 * active
    rows.log_snr = torch.where(accepted, arrival, rows.log_snr)
    rows.state, rows.slope = _where(accepted, after, rows.state), _where(accepted, slopes[-1], rows.slope)


def _moved(state: State | None, step: Tensor, weights: tuple[float, ...], slopes: list[State]) -> State:
    """state + step sum_i weights_i slopes_i, of each tensor."""
    moved = []
    for number in range(len(slopes[0])):
        change = sum(weight * slope[number] for weight, slope in zip(weights, slopes, strict=True) if weight)
        assert isinstance(change, Tensor)
        change = per_row(step, change) * change
        moved.append(change if state is None else state[number] + change)
    return tuple(moved)


def _where(rows: Tensor, yes: State, no: State) -> State:
    return tuple(where_rows(rows, a, b) for a, b in zip(yes, no, strict=True))


def _error2(error: State, before: State, after: State, rtol: float, atol: float) -> Tensor:
    """The largest mean square of a sample's scaled errors over the tensors, ``(B,)`` float64."""
    scaled = [
        difference / (atol + rtol * torch.maximum(old.abs(), new.abs()))
        for difference, old, new in zip(error, before, after, strict=True)
    ]
    return torch.stack([_mean_square(value) for value in scaled]).amax(0)


def _mean_square(x: Tensor) -> Tensor:
    """Mean of squares over a sample, ``(B, ...) -> (B,)``, summed in an order that depends on its size only."""
    squares = x.double().flatten(1) ** 2 if x.ndim > 1 else x.double()[:, None] ** 2
    count = squares.shape[1]
    while squares.shape[1] > 1:
        squares = F.pad(squares, (0, squares.shape[1] % 2))
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    return squares[:, 0] / count


def _factor(error2: Tensor) -> Tensor:
    """Factor from the current to the next step size."""
    factor = (_SAFETY * error2.clamp(min=1e-12) ** (-1 / 10)).clamp(_SHRINK, _GROW).nan_to_num(nan=_SHRINK)
    return (factor * 64).round() / 64  # rounded because the last bit of a power may depend on the position in the batch


def _guess_first_steps(
    rhs: Field, rows: _Rows, end: Tensor, rtol: float, atol: float, count_for: Callable[[Tensor], None]
) -> None:
    """Estimate missing step sizes: those whose Euler step changes the state by a hundredth of its tolerance."""
    unknown = torch.isnan(rows.step) & (rows.log_snr != end)
    if not bool(unknown.any()):
        return
    remaining = end - rows.log_snr
    zero = tuple(torch.zeros_like(value) for value in rows.state)
    size, speed = (_error2(value, rows.state, zero, rtol, atol).sqrt() for value in (rows.state, rows.slope))
    trial = torch.where((size < 1e-5) | (speed < 1e-5), torch.full_like(size, 1e-6), 0.01 * size / speed)
    trial = torch.where(unknown, torch.minimum(trial, remaining.abs()), torch.zeros_like(trial))
    signed = torch.copysign(trial, remaining)
    count_for(unknown)
    slope = rhs(rows.log_snr + signed, _moved(rows.state, signed, (1.0,), [rows.slope]))
    change = tuple(b - a for a, b in zip(rows.slope, slope, strict=True))
    curvature = _error2(change, rows.state, zero, rtol, atol).sqrt() / trial
    largest = torch.maximum(speed, curvature)
    step = torch.where(largest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / 5))
    step = torch.minimum(100 * trial, step)
    step = torch.where(torch.isfinite(step) & (step > 0), step, torch.full_like(step, 1e-3)).float().double()
    rows.step = torch.where(unknown, step, rows.step)
    rows.nfe = rows.nfe + unknown


def _too_small(rows: _Rows, end: Tensor) -> Tensor:
    return rows.step < torch.minimum(_SMALLEST_STEP * (1 + rows.log_snr.abs()), (end - rows.log_snr).abs())


def _stuck(rows: _Rows, end: Tensor, active: Tensor, max_evaluations: int) -> Tensor:
    """(B,) mask of samples that cannot continue."""
    return active & (_too_small(rows, end) | (rows.nfe + 6 > max_evaluations))


def _stuck_error(rows: _Rows, end: Tensor, stuck: Tensor, max_evaluations: int) -> RunError:
    row = int(stuck.nonzero()[0])
    small = bool(_too_small(rows, end)[row])
    reason = "its steps became too small" if small else f"max_evaluations={max_evaluations} is not enough"
    return RunError(
        f"the adaptive solver got stuck at log-SNR {float(rows.log_snr[row]):.4g} (sample {row} of the batch, after "
        f"{int(rows.nfe[row])} evaluations): {reason}; raise rtol and atol, or check the model's values there"
    )
