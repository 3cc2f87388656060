"""Consistency functions, losses and sampling against Gaussian data, whose paths are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_moments import PathsOfGaussian, output_moments
from torch import Tensor, nn

from sparse_product import mostly_slow
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, EDMProcess, FlowProcess
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import per_row
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.losses.consistency import (
    consistency_target,
    end_of_segment,
    knot_pair,
    knots_at,
    pseudo_huber,
    ratio_below,
)
from undiffuse.models.denoising import NetworkModel
from undiffuse.objectives.consistency import ConsistencyConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid

DATA = GaussianMixture.gaussian(torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double())
every_process = pytest.mark.parametrize("name", PROCESSES)


def points(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", mostly_slow(PROCESSES, "ddpm_linear", "vp", "ve", "flow"))
def test_the_exact_function_agrees_with_the_ode(name: str) -> None:
    """What the tests below stand on: a fine numerical solution meets the closed form."""
    process = PROCESSES[name]()
    low, high = torch.tensor([-5.0, 2.0]).double()
    times = process.time_of_log_snr(torch.linspace(low, high, 301, dtype=torch.float64))
    x_t, exact = points(5), PathsOfGaussian(DATA, process)
    options = {"shape": (2,), "seeds": range(5), "x_start": x_t, "finish": False, "dtype": torch.float64}
    x_s = sample(DATA.denoiser(process), make_sampler("heun"), times, **options).x  # type: ignore[arg-type]
    t, s = times[:1].expand(5), times[-1:].expand(5)
    torch.testing.assert_close(x_s, exact.follow(x_t, t, s), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact(x_s, s).x_0, exact(x_t, t).x_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("name", ["flow", "edm", "vp", "ve"])
def test_samples_have_the_exact_moments_in_any_number_of_steps(name: str, num_steps: int) -> None:
    process = PROCESSES[name]()
    times = time_grid("angle", process, num_steps)
    start = process.alpha(times[:1]) * DATA.mean, (process.alpha(times[:1]) ** 2 * DATA.variance).sqrt()
    start_std = torch.hypot(start[1], process.sigma(times[:1]))
    exact = PathsOfGaussian(DATA, process)
    mean, std = output_moments(exact, make_sampler("consistency"), times, start[0], start_std, finish=True)
    torch.testing.assert_close(mean, DATA.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(std, DATA.variance.sqrt(), rtol=1e-9, atol=1e-9)


def segment_function(process: Process, x_t: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """The x_0 whose DDIM step t -> end lands on the path of x_t, by solving the 2 x 2 system of x_t and x_end."""
    x_end = PathsOfGaussian(DATA, process).follow(x_t, t, end)
    a_t, s_t, a, s = (
        per_row(v, x_t) for v in (process.alpha(t), process.sigma(t), process.alpha(end), process.sigma(end))
    )
    return (s_t * x_end - s * x_t) / (s_t * a - s * a_t)


@pytest.mark.parametrize("segments", [1, 2, 4])
@pytest.mark.parametrize("name", ["flow", "edm", "vp"])
def test_the_exact_function_is_its_own_target(name: str, segments: int) -> None:
    process = PROCESSES[name]()
    t = torch.linspace(0.005, 0.999, 40, dtype=torch.float64)
    end = end_of_segment(time_grid("angle", process, segments), t)
    s = torch.maximum(end, t * torch.tensor([0.98, 0.7, 0.2, 0.0], dtype=torch.float64).repeat(10))
    x_t = points(40) * per_row(process.norm(t), torch.empty(1, 2))
    x_s = PathsOfGaussian(DATA, process).follow(x_t, t, s)
    inner = torch.where(s > end, s, t)
    x_0_s = segment_function(process, torch.where((s > end)[:, None], x_s, x_t), inner, end)
    f = segment_function(process, x_t, t, end).requires_grad_()
    target = consistency_target(process, x_t, t, x_s, s, x_0_s, end)
    assert bool((s == end).any()) and bool((s > end).any())
    torch.testing.assert_close(target, f, rtol=1e-6, atol=1e-6)
    pseudo_huber(f - target, 0.01).sum().backward()
    assert f.grad is not None and float(f.grad.abs().max()) < 1e-4  # and that of a wrong function is not:
    wrong = (f.detach() + 0.1).requires_grad_()
    pseudo_huber(wrong - target, 0.01).sum().backward()
    assert wrong.grad is not None and float(wrong.grad.min()) > 0.5
    if segments == 1:
        torch.testing.assert_close(f, PathsOfGaussian(DATA, process)(x_t, t).x_0, rtol=1e-9, atol=1e-9)


def test_at_the_clean_end_the_target_is_the_image_whatever_the_network_predicts() -> None:
    process, x_0, eps = FlowProcess(), points(4), points(4, 1)
    t, zero = torch.full((4,), 0.3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    message = torch.full_like(x_0, torch.nan)
    target = consistency_target(process, process.diffuse(x_0, eps, t), t, x_0, zero, message, zero)
    torch.testing.assert_close(target, x_0)


def test_the_distance_is_quadratic_near_and_linear_far() -> None:
    c = 0.01 * math.sqrt(6)
    rows = torch.tensor([0.0, 1e-9, 0.5, 300.0], dtype=torch.float64)
    difference = rows[:, None, None].expand(4, 2, 3) / math.sqrt(6)
    expected = [0.0, 0.5e-18 / c, math.sqrt(0.25 + c**2) - c, math.sqrt(9e4 + c**2) - c]
    assert pseudo_huber(difference, 0.01).tolist() == pytest.approx(expected, rel=1e-9)
    assert pseudo_huber(torch.zeros(0, 3), 0.01).shape == (0,)


def test_knots_double_up_to_the_last() -> None:
    assert [knots_at(seen, 10, 70, 100) for seen in (0, 99, 100, 299, 300, 10**12)] == [10, 10, 20, 40, 70, 70]
    assert knots_at(10**12, 10, 10, 1) == 10


def test_pairs_of_knots_enclose_the_time() -> None:
    times = torch.tensor([1.0, 0.6, 0.1, 0.0], dtype=torch.float64)
    above, below = knot_pair(times, torch.tensor([1.0, 0.61, 0.6, 0.3, 1e-9], dtype=torch.float64))
    assert above.tolist() == [1.0, 1.0, 0.6, 0.6, 0.1]
    assert below.tolist() == [0.6, 0.6, 0.1, 0.1, 0.0]


@pytest.mark.parametrize("halvings", [1, 2, 4, 9])
def test_the_ratio_is_geng_et_als(halvings: int) -> None:
    process = EDMProcess(80.0)
    t = torch.tensor([0.001, 0.01, 0.1, 0.9], dtype=torch.float64)
    r = 80 * t
    expected = (r * (1 - (1 + 8 * torch.sigmoid(-r)) / 2**halvings)).clamp(min=0) / 80
    torch.testing.assert_close(ratio_below(process, t, halvings), expected, rtol=1e-9, atol=1e-12)
    assert bool((ratio_below(FlowProcess(), t, halvings) < t).all())


@every_process
def test_the_angles_of_the_grid_are_even(name: str) -> None:
    process = PROCESSES[name]()
    times = time_grid("angle", process, 4)[:-1]
    angles = torch.atan2(process.sigma(times), process.alpha(times))
    steps = angles.diff()
    torch.testing.assert_close(steps, steps[:1].expand(3), rtol=0, atol=1e-7)
    last = process.sigma(torch.zeros(1)) / process.alpha(torch.zeros(1))
    assert float(angles[-1] + steps[0]) == pytest.approx(max(math.atan(float(last)), math.atan(1 / 500)), abs=1e-6)
    if name == "flow":
        assert float(time_grid("angle", process, 2)[1]) == pytest.approx(0.5, abs=1e-3)


class Recording(PathsOfGaussian):
    """The exact function, or the exact denoiser, recording the labels that it is given."""

    def __init__(self, process: Process, for_consistency_models: bool) -> None:
        super().__init__(DATA, process)
        self.for_consistency_models, self.labels = for_consistency_models, []

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        self.labels.append(None if cond is None or cond.label is None else cond.label.tolist())
        return super().forward(x_t, t) if self.for_consistency_models else DATA.denoiser(self.process)(x_t, t)


class ExactTeacher(nn.Module):
    """What a ``LazyTeacher`` holds, as far as a student asks."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process, self.requested = process, Recording(process, for_consistency_models=False)

    def on(self, device: torch.device) -> ExactTeacher:
        return self

    def teacher_denoiser(self) -> Denoiser:
        return self.requested


@pytest.mark.parametrize("transferred", [False, True])
def test_the_exact_student_of_an_exact_teacher_has_nothing_to_learn(
    monkeypatch: pytest.MonkeyPatch, transferred: bool
) -> None:
    """With a solver of second order its loss vanishes with the cube of the gap, and one of first order is worse."""
    losses = {}
    for solver, knots in (("heun", 20), ("heun", 40), ("euler", 40)):
        options = {"network": {"name": "mlp", "width": 8, "num_blocks": 1}, "weighting": "uniform", "solver": solver}
        options |= {"class_conditional": True, "label_dropout": 0.5, "knot_grid": "angle"}
        options |= {"first_knots": knots, "last_knots": knots, "huber": 1e-9, "time_density": {"name": "uniform"}}
        system = validate(ConsistencyConfig, options).build((2,), ("a", "b")).train()
        student, teacher = (
            Recording(system.model.process, for_consistency_models=True),
            ExactTeacher(PROCESSES["vp" if transferred else "flow"]()),
        )
        monkeypatch.setattr(system.model, "threaded_denoiser", lambda student=student: student)
        monkeypatch.setattr(system, "_teacher", teacher)
        rows = torch.arange(400)
        batch = Batch(DATA.sample(400), Given(label=rows % 2), rows)
        losses[solver, knots] = float(system(batch, "main", StepRandom(0, 0)).per_sample.mean())
        assert student.labels == 2 * student.labels[:1] and {-1, 0, 1} == set(student.labels[0])
        assert teacher.requested.labels == len(teacher.requested.labels) * student.labels[:1]
    assert losses["heun", 40] < losses["heun", 20] / 5 < 0.01
    assert losses["heun", 40] < losses["euler", 40] / 3


class Held:
    """A ``LazyTeacher`` whose teacher is at hand."""

    def __init__(self, teacher: NetworkModel) -> None:
        self.teacher = teacher

    def on(self, device: torch.device) -> NetworkModel:
        return self.teacher


def test_the_student_follows_the_path_that_its_teacher_samples_guidance_included() -> None:
    """Both kinds of guidance: away from the guide, and towards the class."""
    torch.manual_seed(0)
    network = {"name": "mlp", "width": 8, "num_blocks": 1}
    shared = {"network": network, "parameterization": "flow", "class_conditional": True}
    sampling = {"autoguidance": 3.0, "guidance": 2.0, "guidance_interval": (-9.0, 9.0)}
    teacher = (
        validate(DiffusionConfig, {**shared, "guide_images": 1, "sampling": sampling}).build((2,), ("a", "b")).model
    )
    with torch.no_grad():
        for parameter in teacher.parameters():  # network and guide, apart from each other
            parameter.normal_(0, 0.3)
    assert isinstance(teacher, NetworkModel)
    teacher.double().eval().guide_seen.fill_(1)
    student = validate(ConsistencyConfig, {**shared, "solver": "euler"}).build((2,), ("a", "b")).double()
    student._teacher = Held(teacher)  # type: ignore[assignment]
    x_t, cond = points(6), Condition(label=torch.tensor([0, 1, 1, 0, 1, 0]))
    t, s = torch.full((6,), 0.6).double(), torch.full((6,), 0.5).double()
    euler = {"shape": (2,), "seeds": range(6), "cond": cond, "x_start": x_t, "finish": False, "dtype": torch.float64}
    followed, plain = (
        sample(denoiser, make_sampler("euler"), torch.stack([t[0], s[0]]), **euler).x  # type: ignore[arg-type]
        for denoiser in (teacher.sampling_denoiser(), teacher.unguided_denoiser())
    )
    below = student._x_s(x_t, x_t, x_t, t, s, cond)
    torch.testing.assert_close(below, followed, rtol=1e-12, atol=1e-12)
    assert float((below - plain).abs().min()) > 1e-4
