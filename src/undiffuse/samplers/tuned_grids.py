"""Time grids tuned for one model: knots that minimise the error of a few-step solver against a fine solution.

A deterministic sampler with K steps from fixed noise has an error e(l) relative to the solution x* of the
probability-flow ODE, a function of its inner knots l = (lambda_1 < ... < lambda_(K-1)), log-SNRs between the fixed
first and last time. The sum of squares |e(l)|^2 over a set of seeds is minimised by the Levenberg-Marquardt method in a
few iterations, with the K - 1 columns of the Jacobian from finite differences. The knots are parameterized by
z = (lambda_1, log(lambda_2 - lambda_1), ...), for which every value is a valid grid.
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

#: Steps of the fine solution, by Heun's method on the grid evenly spaced in the log-SNR.
FINE_STEPS = 96
#: Maximum number of Levenberg-Marquardt iterations, and the smallest relative improvement to continue.
_MAX_ITERATIONS, _MIN_IMPROVEMENT = 8, 0.002
#: Step of the finite differences in z; far above the rounding errors of bf16 networks.
_DIFFERENCE = 0.04
#: The largest change of a coordinate of z in an iteration.
_MAX_CHANGE = 0.7


class TunedGrid(NamedTuple):
    """The result of tuning.

    Attributes:
        sampler: name of the sampler.
        log_snrs: log-SNRs of the K - 1 inner knots, ascending.
        nfe: NFE of a sample on the better grid; with a guidance interval it depends on the grid.
        tuned_error: root mean squared difference from the fine solution, on seeds not used for tuning.
        named: error of each named grid with the same number of steps.
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
    def best_named_grid(self) -> str:
        """The named grid with the smallest error."""
        return min(self.named, key=self.named.__getitem__)

    @property
    def helps(self) -> bool:
        """Whether the tuned grid has a smaller error than every named grid on seeds not used for tuning."""
        return self.tuned_error < self.named[self.best_named_grid]

    @property
    def grid(self) -> str:
        """The specification of the better grid; that of the tuned grid contains its knots."""
        return knots_spec(self.log_snrs) if self.helps else self.best_named_grid

    @property
    def error(self) -> float:
        """The error of the better grid."""
        return min(self.tuned_error, self.named[self.best_named_grid])


@dataclass(frozen=True)
class Trial:
    """A denoiser, a set of seeds, and the fine solution for these seeds.

    Args:
        denoiser: in evaluation mode.
        shape: shape of one sample.
        seeds: one per sample.
        cond: condition of the samples; None is unconditional.
        device: device of the denoiser.
        solution: x* (B, *shape), see ``solved``.
        temperature: temperature of the initial noise.
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
        """A copy with x* from ``num_steps`` steps of Heun's method."""
        fine = self.inner(self.times("log_snr", num_steps))
        return replace(self, solution=self.run(heun(), self.through(fine))[0])

    def residual(self, sampler: Sampler, times: Tensor) -> Tensor:
        """e: the samples minus x*, ``(B, *shape)``.

        Args:
            sampler: deterministic.
            times: (K + 1,) descending.
        """
        assert self.solution is not None
        return self.run(sampler, times)[0] - self.solution

    def residual_at(self, sampler: Sampler, log_snrs: Tensor) -> Tensor:
        """e of the grid with these inner knots; infinite if a knot is outside the range of the grid.

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
        """Root mean square of e; infinite if the sampler diverges.

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
        """Times of a named grid.

        Args:
            grid: a key of ``GRIDS``, optionally with options after a colon.
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
    """Tune a grid of ``num_steps`` steps to minimise the error of ``sampler`` against the fine solution.

    Args:
        trial: seeds for tuning, solved.
        check: other seeds, solved, for the reported errors.
        sampler: deterministic, with a fixed NFE per step.
        num_steps: K, at least 2.
        on_progress: called with (iterations done, maximum number of iterations).
    Returns:
        The knots, optimised from the best named grid, and the errors of all grids.
    Raises:
        UsageError: a stochastic or adaptive sampler, or fewer than 2 steps.
    Note:
        Costs about (K + 2) x iterations solutions of K steps, plus the fine solution. Deterministic on one machine.
    Source: the objective is that of Watson et al. 2021, arXiv:2106.03802, and Sabour et al. 2024, "Align Your Steps",
        arXiv:2404.14507; least squares on the samples is specific to this implementation.
    """
    check_tunable(sampler, num_steps)
    named = {name: trial.times(name, num_steps) for name in GRIDS if name != "through"}
    starts = [trial.inner(times) for times in named.values()]
    knots = min(starts, key=lambda start: trial.error(sampler, trial.through(start)))
    knots = _descend(lambda value: trial.residual_at(sampler, value), knots, on_progress)
    error = check.error(sampler, check.through(knots))
    errors = {name: check.error(sampler, times) for name, times in named.items()}
    found = TunedGrid(sampler.name, tuple(knots.tolist()), 0, error, errors)
    best = check.through(knots) if found.helps else named[found.best_named_grid]
    return found._replace(nfe=check.run(sampler, best)[1])


def check_tunable(sampler: Sampler, num_steps: int) -> None:
    """Check that ``tune_grid`` supports a sampler and a number of steps.

    Args:
        sampler: must be deterministic and use a time grid.
        num_steps: K, at least 2.
    Raises:
        UsageError: a stochastic or adaptive sampler, or fewer than 2 steps.
    """
    if sampler.stochastic or sampler.adaptive:
        raise UsageError(
            f"grids can be tuned for deterministic samplers with fixed steps, got {sampler.name!r}; use heun, dpmpp_2m "
            "or unipc"
        )
    if num_steps < 2:
        raise UsageError(f"a tuned grid needs at least 2 steps, got {num_steps}")


def _descend(residual: Callable[[Tensor], Tensor], knots: Tensor, on_progress: ProgressCallback | None) -> Tensor:
    """Levenberg-Marquardt from ``knots``: steps (J'J + mu diag J'J)^-1 J'e, accepted only if the error decreases."""
    z, mu = _parameters(knots), 0.01
    e = residual(knots)
    for number in range(_MAX_ITERATIONS):
        jacobian = _jacobian(residual, z, e)
        before, (z, e, mu) = _root_mean_square(e), _damped_step(residual, z, e, jacobian, mu)
        if on_progress is not None:
            on_progress(number + 1, _MAX_ITERATIONS)
        if _root_mean_square(e) > before * (1 - _MIN_IMPROVEMENT):
            break
    return _knots(z)


def _jacobian(residual: Callable[[Tensor], Tensor], z: Tensor, e: Tensor) -> Tensor:
    """de/dz by finite differences, ``(elements of e, K - 1)`` float64."""
    columns = []
    for index in range(len(z)):
        moved = z.clone()
        moved[index] += _DIFFERENCE
        columns.append((residual(_knots(moved)) - e).flatten().double() / _DIFFERENCE)
    return torch.stack(columns, dim=1)


def _damped_step(
    residual: Callable[[Tensor], Tensor], z: Tensor, e: Tensor, jacobian: Tensor, mu: float
) -> tuple[Tensor, Tensor, float]:
    """The first damped step that lowers the error; the damping grows tenfold after each rejected step."""
    normal, gradient = (jacobian.T @ jacobian).cpu(), (jacobian.T @ e.flatten().double()).cpu()
    for _ in range(4):
        damped = normal + mu * torch.diag(normal.diagonal()) + 1e-12 * torch.eye(len(z), dtype=torch.float64)
        moved = z - torch.linalg.solve(damped, gradient).clamp(-_MAX_CHANGE, _MAX_CHANGE)
        moved_e = residual(_knots(moved))
        if _root_mean_square(moved_e) < _root_mean_square(e):
            return moved, moved_e, mu / 3
        mu *= 10
    return z, e, mu


def _parameters(knots: Tensor) -> Tensor:
    return torch.cat([knots[:1], knots.diff().log()])


def _knots(z: Tensor) -> Tensor:
    return torch.cat([z[:1], z[1:].exp()]).cumsum(0)


def _root_mean_square(e: Tensor) -> float:
    value = float(e.double().square().mean().sqrt())
    return value if math.isfinite(value) else math.inf
