"""UniPC and the stochastic DPM-Solver++ against diffusers', whole trajectories in float64, with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_schedulers_diffusers import (
    NUM_TRAIN_STEPS,
    SCHEDULES,
    SEEDS,
    SHAPE,
    DoubleTorch,
    assert_same_path,
    eps_model,
    make_scheduler,
    start,
    step_noise,
    their_path,
    times_of,
    upcast_sigmas,
)
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.processes import DiscreteVP
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Progress, sample
from undiffuse.samplers.noise import NoiseSource

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs


class GivenNoise(NoiseSource):
    """The noise that their scheduler is handed: one draw a step, whatever it is called."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def at(self, index: Tensor) -> NoiseSource:
        return GivenNoise(int(index[0]))

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        assert bool((snr_s > snr_t).all())
        return step_noise(self.number)


def our_path(spec: str, scheduler: Any, x_start: Tensor) -> list[Tensor]:
    """x after each of our steps; where theirs correct x in the next step, so do ours."""
    path: list[Tensor] = []
    denoiser = Denoiser.wrap(eps_model, DiscreteVP(scheduler.betas), "eps", time_label="index0")

    def keep(progress: Progress) -> None:
        path.append(progress.x)

    sample(
        denoiser,
        make_sampler(spec),
        times_of(scheduler),
        shape=SHAPE,
        seeds=SEEDS,
        noise=GivenNoise(),
        x_start=x_start,
        dtype=torch.float64,
        callback=keep,
    )
    return path


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [4, 20])
@pytest.mark.parametrize("lower_order_final", [False, True])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_is_theirs(schedule: str, num_steps: int, order: int, variant: str, lower_order_final: bool) -> None:
    scheduler = make_scheduler(
        "UniPCMultistepScheduler",
        schedule,
        num_steps,
        solver_order=order,
        solver_type=variant,
        predict_x0=True,
        lower_order_final=lower_order_final,
        timestep_spacing="leading",
    )
    upcast_sigmas(scheduler)
    spec = f"unipc:order={order},variant={variant},lower_order_final={int(lower_order_final)}"
    last_is_finite = lower_order_final and variant == "bh2"  # elsewhere their step to sigma = 0 is not a number
    if not last_is_finite:
        scheduler.step = stopping_before(scheduler.step, int(scheduler.timesteps[-1]))
    ours = our_path(spec, scheduler, start())
    theirs = their_path(scheduler, start(), lambda eps, k, x, number: scheduler.step(eps, k, x))
    count = num_steps if last_is_finite else num_steps - 1
    assert_same_path(ours[:count], theirs[:count])
    assert bool(ours[-1].isfinite().all())


def stopping_before(step: Callable[..., Any], last: int) -> Callable[..., Any]:
    """Their step, but for the last one of all, which returns its input."""
    return lambda eps, k, x: SimpleNamespace(prev_sample=x) if int(k) == last else step(eps, k, x)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [9, 20])
def test_dpmpp_2m_sde_is_theirs(schedule: str, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers import scheduling_dpmsolver_multistep

    monkeypatch.setattr(scheduling_dpmsolver_multistep, "torch", DoubleTorch())
    scheduler = make_scheduler(
        "DPMSolverMultistepScheduler",
        schedule,
        num_steps,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        timestep_spacing="leading",
    )
    upcast_sigmas(scheduler)
    theirs = their_path(
        scheduler,
        start(),
        lambda eps, k, x, number: scheduler.step(eps, k, x, variance_noise=step_noise(number)),
    )
    assert_same_path(our_path("dpmpp_2m_sde", scheduler, start()), theirs)


def test_the_models_steps_are_the_grids() -> None:
    scheduler = make_scheduler("UniPCMultistepScheduler", "linear", 10, timestep_spacing="leading")
    assert len(times_of(scheduler)) == len(scheduler.timesteps) + 1 == 11
    assert float(times_of(scheduler)[0]) == (float(scheduler.timesteps[0]) + 1) / NUM_TRAIN_STEPS
