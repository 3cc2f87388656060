"""The samplers against diffusers' schedulers, step by step, to 1e-10 in float64.

Same model, same times, same noise. Their tables are float32: here they are made anew in float64 from their own betas,
so that nothing of ours has to be loosened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from late import late
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.processes import DiscreteVP
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Progress, sample
from undiffuse.samplers.noise import SeededNoise

diffusers = late("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs

NUM_TRAIN_STEPS, SHAPE, SEEDS = 100, (2, 3, 3), [3, 4]
SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.15},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


class DoubleTorch:
    """torch, but for ``float32``: some schedulers cast a sample down to it in every step."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def eps_model(x: Tensor, index: Tensor) -> Tensor:
    """Any smooth function will do for a network; it depends on the place, the value and the step."""
    shift = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x[0].shape)
    k = index.reshape(-1, *([1] * (x.ndim - 1))) / NUM_TRAIN_STEPS
    return 0.8 * x + 0.5 * torch.sin(2 * x + shift + 3 * k) + 0.2 * k


def make_scheduler(name: str, schedule: str, num_steps: int, **options: Any) -> Any:
    """Their scheduler, with tables in float64."""
    scheduler = getattr(diffusers(), name)(num_train_timesteps=NUM_TRAIN_STEPS, **SCHEDULES[schedule], **options)
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    one = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "one"):
        scheduler.one = one
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = one
    scheduler.set_timesteps(num_steps)
    return scheduler


def upcast_sigmas(scheduler: Any) -> None:
    """sqrt(1 - alpha-bar) / sqrt(alpha-bar) at each of their (whole) time steps, then 0, in float64."""
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps.long()]
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    exact = torch.cat([sigmas, sigmas.new_zeros(1)])
    assert torch.allclose(scheduler.sigmas.double(), exact, rtol=1e-5)
    scheduler.sigmas = exact


def times_of(scheduler: Any) -> Tensor:
    """Their steps k = T-1 ... 0 are our knots (k + 1) / T; the end is 0."""
    steps = torch.unique_consecutive(scheduler.timesteps).double()
    return torch.cat([(steps + 1) / NUM_TRAIN_STEPS, torch.zeros(1, dtype=torch.float64)])


def our_path(spec: str, scheduler: Any, x_start: Tensor) -> list[Tensor]:
    """x after each of our steps."""
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
        x_start=x_start,
        dtype=torch.float64,
        callback=keep,
    )
    return path


def their_path(scheduler: Any, x_start: Tensor, step: Callable[..., Any]) -> list[Tensor]:
    """x after each of their calls."""
    path, x = [], x_start
    for number, k in enumerate(scheduler.timesteps):
        eps = eps_model(scheduler.scale_model_input(x, k), k.double().expand(len(x)))
        x = step(eps, k, x, number).prev_sample
        path.append(x)
    return path


def start() -> Tensor:
    return torch.randn(len(SEEDS), *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def step_noise(number: int) -> Tensor:
    """What our sampler draws in this step."""
    return SeededNoise(SEEDS).at(torch.full((len(SEEDS),), number)).normal(start())


def assert_same_path(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype == torch.float64
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10), f"step {number}: {float((a - b).abs().max()):.1e}"
    assert float(ours[-1].std()) > 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [10, NUM_TRAIN_STEPS])
@pytest.mark.parametrize(
    ("spec", "variance_type"),
    [("ancestral:variance=beta_tilde", "fixed_small"), ("ancestral:variance=beta", "fixed_large")],
)
def test_ancestral_is_their_ddpm(
    schedule: str, num_steps: int, spec: str, variance_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.schedulers import scheduling_ddpm

    scheduler = make_scheduler(
        "DDPMScheduler", schedule, num_steps, variance_type=variance_type, clip_sample=False, timestep_spacing="leading"
    )
    current = [0]
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: step_noise(current[0]))

    def step(eps: Tensor, k: Tensor, x: Tensor, number: int) -> Any:
        current[0] = number
        return scheduler.step(eps, int(k), x)

    assert_same_path(our_path(spec, scheduler, start()), their_path(scheduler, start(), step))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_theirs(schedule: str, eta: float) -> None:
    scheduler = make_scheduler("DDIMScheduler", schedule, 20, clip_sample=False, timestep_spacing="leading")

    def step(eps: Tensor, k: Tensor, x: Tensor, number: int) -> Any:
        return scheduler.step(eps, int(k), x, eta=eta, variance_noise=step_noise(number) if eta > 0 else None)

    assert_same_path(our_path(f"ddim:eta={eta}", scheduler, start()), their_path(scheduler, start(), step))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_is_theirs(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers import scheduling_euler_discrete

    monkeypatch.setattr(scheduling_euler_discrete, "torch", DoubleTorch())
    scheduler = make_scheduler("EulerDiscreteScheduler", schedule, 20, timestep_spacing="leading")
    upcast_sigmas(scheduler)
    ours = our_path("euler", scheduler, start())
    alphas = alphas_at(scheduler)
    theirs = their_path(scheduler, start() / alphas[0], lambda eps, k, x, number: scheduler.step(eps, k, x))
    assert_same_path(ours, [x * alpha for x, alpha in zip(theirs, alphas[1:], strict=True)])


def alphas_at(scheduler: Any) -> Tensor:
    """Euler's and Heun's x is x_t / alpha(t)."""
    return DiscreteVP(scheduler.betas).alpha(times_of(scheduler))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_heun_is_theirs(schedule: str) -> None:
    scheduler = make_scheduler("HeunDiscreteScheduler", schedule, 20, timestep_spacing="leading")
    alpha_bar = scheduler.alphas_cumprod[torch.unique_consecutive(scheduler.timesteps).long()]
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    sigmas = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), sigmas.new_zeros(1)])
    assert torch.allclose(scheduler.sigmas.double(), sigmas, rtol=1e-5)
    scheduler.sigmas = sigmas
    ours = our_path("heun", scheduler, start())
    alphas = alphas_at(scheduler)
    calls = their_path(scheduler, start() / alphas[0], lambda eps, k, x, number: scheduler.step(eps, k, x))
    theirs = calls[1::2] + calls[-1:]  # two calls a step, but for the last
    assert_same_path(ours, [x * alpha for x, alpha in zip(theirs, alphas[1:], strict=True)])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [9, 20])
def test_dpmpp_2m_is_theirs(schedule: str, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers import scheduling_dpmsolver_multistep

    monkeypatch.setattr(scheduling_dpmsolver_multistep, "torch", DoubleTorch())
    scheduler = make_scheduler(
        "DPMSolverMultistepScheduler",
        schedule,
        num_steps,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        timestep_spacing="leading",
    )
    upcast_sigmas(scheduler)
    theirs = their_path(scheduler, start(), lambda eps, k, x, number: scheduler.step(eps, k, x))
    assert_same_path(our_path("dpmpp_2m", scheduler, start()), theirs)


def test_the_schedules_are_theirs() -> None:
    for name, make in (("linear", DiscreteVP.linear), ("squaredcos_cap_v2", DiscreteVP.cosine)):
        theirs = diffusers().DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).betas.double()
        assert torch.allclose(make(1000).betas, theirs, rtol=1e-4, atol=1e-7)  # their tables are float32
