"""Time grids fitted to one model: the knots at which a solver with few steps comes closest to a fine solution.

A deterministic sampler with K steps from fixed noise misses the solution x* of the probability-flow ODE by e(l), a
function of its inner knots l = (lambda_1 < ... < lambda_(K-1)), log-SNRs between the first time and 0, which stay where
they are. The sum of squares |e(l)|^2 over some seeds is least where e has no part left along its own derivatives; those
are K - 1 columns, cheap to take by differences, so that Levenberg's method finds the place in a few rounds. The knots
are moved through z = (lambda_1, log(lambda_2 - lambda_1), ...), in which every value is a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError
from undiffuse.observer import ProgressCallback
from undiffuse.samplers.base import Sampler, sample
from undiffuse.samplers.grids import GRIDS, inner_log_snrs, knots_spec, through, time_grid
from undiffuse.samplers.ode import heun

#: Steps of the fine solution, by Heun's method on the grid even in the log-SNR.
FINE_STEPS = 96
#: Rounds of Levenberg's method, and what a round must gain, relative to the error, for there to be another.
_ROUNDS, _LEAST_GAIN = 8, 0.002
#: By how much a coordinate of z is moved to see what it does; far above the rounding of bf16 networks.
_DIFFERENCE = 0.04
#: No coordinate of z moves further in a round.
_LONGEST_MOVE = 0.7


class TunedGrid(NamedTuple):
    """The result of tuning.

    Attributes:
        sampler: that the grid is for.
        log_snrs: of the inner knots, ascending, one less than steps.
        nfe: of a sample on the better grid; with guidance in an interval it depends on the grid.
        tuned_error: root of the mean squared difference from the fine solution, on seeds that tuning did not see.
        named: the same of each named grid with as many steps.
    """

    sampler: str
    log_snrs: tuple[float, ...]
    nfe: int
    tuned_error: float
    named: dict[str, float]

    @property
    def num_steps(self) -> int:
        """K, the number of steps."""
        return len(self.log_snrs) + 1

    @property
    def best_named(self) -> str:
        """The named grid with the least error."""
        return min(self.named, key=self.named.__getitem__)

    @property
    def helps(self) -> bool:
        """Whether the tuned grid beats every named one on seeds that it did not see."""
        return self.tuned_error < self.named[self.best_named]

    @property
    def grid(self) -> str:
        """The specification of the better grid: for the tuned one it holds the knots."""
        return knots_spec(self.log_snrs) if self.helps else self.best_named

    @property
    def error(self) -> float:
        """The error of the better grid."""
        return min(self.tuned_error, self.named[self.best_named])


@dataclass(frozen=True)
class Trial:
    """A denoiser, some seeds, and where the fine solution takes them.

    Args:
        denoiser: in evaluation mode.
        shape: of one sample.
        seeds: one per sample.
        cond: of the samples; None is unconditional.
        device: of the denoiser.
        solution: x* (B, *shape), see ``solved``.
        temperature: of the noise that it begins with.
    """

    denoiser: Denoiser
    shape: tuple[int, ...]
    seeds: Sequence[int]
    cond: Condition | None = None
    device: torch.device | str = "cpu"
    solution: Tensor | None = None
    temperature: float = 1.0

    def run(self, sampler: Sampler, times: Tensor) -> tuple[Tensor, int]:
        """Samples (B, *shape) and their NFE.

        Args:
            sampler: deterministic.
            times: (K + 1,) descending.
        """
        sampled = sample(
            self.denoiser,
            sampler,
            times,
            shape=self.shape,
            seeds=self.seeds,
            cond=self.cond,
            temperature=self.temperature,
            device=self.device,
        )
        return sampled.x, sampled.nfe

    def solved(self, num_steps: int = FINE_STEPS) -> Trial:
        """The same with x* from ``num_steps`` of Heun's method."""
        fine = self.inner(self.times("log_snr", num_steps))
        return replace(self, solution=self.run(heun(), self.through(fine))[0])

    def residual(self, sampler: Sampler, times: Tensor) -> Tensor:
        """e: the samples less x*, ``(B, *shape)``.

        Args:
            sampler: deterministic.
            times: (K + 1,) descending.
        """
        assert self.solution is not None
        return self.run(sampler, times)[0] - self.solution

    def residual_at(self, sampler: Sampler, log_snrs: Tensor) -> Tensor:
        """e of the grid with these inner knots; infinite where they leave the range between its ends.

        Args:
            sampler: deterministic.
            log_snrs: (K - 1,) ascending log-SNRs.
        """
        assert self.solution is not None
        low, high = self.denoiser.process.log_snr(self.times("uniform", 1))
        if not bool((low < log_snrs[0]) & (log_snrs[-1] < high)):
            return torch.full_like(self.solution, math.inf)
        return self.residual(sampler, self.through(log_snrs))

    def error(self, sampler: Sampler, times: Tensor) -> float:
        """Root of the mean of e^2; infinite where the sampler diverges.

        Args:
            sampler: deterministic.
            times: (K + 1,) descending.
        """
        return _root_mean_square(self.residual(sampler, times))

    def through(self, log_snrs: Tensor | Sequence[float]) -> Tensor:
        """Times of the grid with these inner knots."""
        knots = tuple(float(knot) for knot in log_snrs)
        return through(self.denoiser.process, len(knots) + 1, self.denoiser.log_snr_range, knots)

    def times(self, grid: str, num_steps: int) -> Tensor:
        """Times of a row of ``GRIDS``.

        Args:
            grid: its name, with options after a colon if need be.
            num_steps: K, at least 1.
        """
        return time_grid(grid, self.denoiser.process, num_steps, self.denoiser.log_snr_range)

    def inner(self, times: Tensor) -> Tensor:
        """Log-SNRs of the inner knots.

        Args:
            times: (K + 1,) descending.
        """
        return inner_log_snrs(self.denoiser.process, times)


def tune_grid(
    trial: Trial, check: Trial, sampler: Sampler, num_steps: int, on_progress: ProgressCallback | None = None
) -> TunedGrid:
    """The grid of ``num_steps`` steps with which ``sampler`` comes closest to the fine solution.

    Args:
        trial: seeds to tune with, solved.
        check: other seeds, solved, on which the errors are stated.
        sampler: deterministic, with a fixed NFE per step.
        num_steps: K, at least 2.
        on_progress: called with (rounds done, rounds at most).
    Returns:
        The knots, found from the best of the named grids, and the errors of all.
    Raises:
        UsageError: a sampler that draws noise or chooses its own steps, or fewer than 2 steps.
    Note:
        Costs about (K + 2) x rounds solutions of K steps, and the fine one. The same machine gives the same grid.
    Source: the aim is that of Watson et al. 2021, arXiv:2106.03802, and Sabour et al. 2024, "Align Your Steps",
        arXiv:2404.14507; least squares on the samples themselves is our own way there.
    """
    check_tunable(sampler, num_steps)
    named = {name: trial.times(name, num_steps) for name in GRIDS if name != "through"}
    starts = [trial.inner(times) for times in named.values()]
    knots = min(starts, key=lambda start: trial.error(sampler, trial.through(start)))
    knots = _descend(lambda value: trial.residual_at(sampler, value), knots, on_progress)
    error = check.error(sampler, check.through(knots))
    errors = {name: check.error(sampler, times) for name, times in named.items()}
    found = TunedGrid(sampler.name, tuple(knots.tolist()), 0, error, errors)
    kept = check.through(knots) if found.helps else named[found.best_named]
    return found._replace(nfe=check.run(sampler, kept)[1])


def check_tunable(sampler: Sampler, num_steps: int) -> None:
    """Refuse what ``tune_grid`` cannot tune.

    Args:
        sampler: has to be deterministic, with steps of its own.
        num_steps: K, at least 2.
    Raises:
        UsageError: a sampler that draws noise or chooses its own steps, or fewer than 2 steps.
    """
    if sampler.stochastic or sampler.adaptive:
        raise UsageError(
            f"a grid is tuned for a deterministic sampler with steps of its own, got {sampler.name!r}; take heun, "
            "dpmpp_2m or unipc"
        )
    if num_steps < 2:
        raise UsageError(f"a tuned grid has at least 2 steps, got {num_steps}")


def _descend(residual: Callable[[Tensor], Tensor], knots: Tensor, on_progress: ProgressCallback | None) -> Tensor:
    """Levenberg's method from ``knots``: steps (J'J + mu diag J'J)^-1 J'e that are only taken where the error falls."""
    z, mu = _free(knots), 0.01
    e = residual(knots)
    for number in range(_ROUNDS):
        jacobian = _jacobian(residual, z, e)
        before, (z, e, mu) = _root_mean_square(e), _round(residual, z, e, jacobian, mu)
        if on_progress is not None:
            on_progress(number + 1, _ROUNDS)
        if _root_mean_square(e) > before * (1 - _LEAST_GAIN):
            break
    return _knots(z)


def _jacobian(residual: Callable[[Tensor], Tensor], z: Tensor, e: Tensor) -> Tensor:
    """de/dz by differences, ``(elements of e, K - 1)`` float64."""
    columns = []
    for index in range(len(z)):
        moved = z.clone()
        moved[index] += _DIFFERENCE
        columns.append((residual(_knots(moved)) - e).flatten().double() / _DIFFERENCE)
    return torch.stack(columns, dim=1)


def _round(
    residual: Callable[[Tensor], Tensor], z: Tensor, e: Tensor, jacobian: Tensor, mu: float
) -> tuple[Tensor, Tensor, float]:
    """The first damped step that lowers the error, damped ten times more after each that does not."""
    normal, gradient = (jacobian.T @ jacobian).cpu(), (jacobian.T @ e.flatten().double()).cpu()
    for _ in range(4):
        damped = normal + mu * torch.diag(normal.diagonal()) + 1e-12 * torch.eye(len(z), dtype=torch.float64)
        moved = z - torch.linalg.solve(damped, gradient).clamp(-_LONGEST_MOVE, _LONGEST_MOVE)
        missed = residual(_knots(moved))
        if _root_mean_square(missed) < _root_mean_square(e):
            return moved, missed, mu / 3
        mu *= 10
    return z, e, mu


def _free(knots: Tensor) -> Tensor:
    return torch.cat([knots[:1], knots.diff().log()])


def _knots(z: Tensor) -> Tensor:
    return torch.cat([z[:1], z[1:].exp()]).cumsum(0)


def _root_mean_square(e: Tensor) -> float:
    value = float(e.double().square().mean().sqrt())
    return value if math.isfinite(value) else math.inf
