"""Mean velocities on Gaussian data, where the path of every point, and so every mean velocity, is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser, TransferredDenoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import per_row
from undiffuse.data.given import Given
from undiffuse.losses.mean_flow import adaptive_loss, derivative_target, heun_velocity, split_target
from undiffuse.networks import MLPConfig
from undiffuse.objectives.mean_flow import MeanFlowConfig, MeanFlowObjective
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample

MEAN, VARIANCE = torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double()
DATA = GaussianMixture.gaussian(MEAN, VARIANCE)
FLOW = FlowProcess()


def end(process: Process, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the probability-flow ODE takes x from t to s: deviations grow as the marginal's."""

    def marginal(at: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = process.alpha(at)[:, None], process.sigma(at)[:, None]
        return alpha * MEAN, (alpha**2 * VARIANCE + sigma**2).sqrt()

    (mean_t, std_t), (mean_s, std_s) = marginal(t), marginal(s)
    return mean_s + std_s / std_t * (x - mean_t)


def mean_velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """u(x, t, s) in closed form, for s < t."""
    return (x - end(FLOW, x, t, s)) / (t - s)[:, None]


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """v(x, t) in closed form."""
    alpha, sigma = 1 - t[:, None], t[:, None]
    slope = (sigma - alpha * VARIANCE) / (alpha**2 * VARIANCE + sigma**2)
    return -MEAN + slope * (x - alpha * MEAN)


class Exact(Denoiser):
    """x_0-hat whose DDIM step to the target time is the ODE's own; without one, the posterior mean."""

    process = FLOW

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        return Denoised(x_t - per_row(t, x_t) * self.output(x_t, t, cond, evaluation))

    def output(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Tensor:
        if evaluation is None or evaluation.target_time is None:
            return velocity(x_t, t)
        target = evaluation.target_time
        return torch.where(
            (t > target)[:, None], mean_velocity(x_t, t, torch.minimum(target, t - 1e-9)), velocity(x_t, t)
        )


def rows(count: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, t, m, s) with s < m < t."""
    generator = torch.Generator().manual_seed(0)
    times = torch.rand(count, 3, generator=generator, dtype=torch.float64).sort(dim=1, descending=True).values
    return torch.randn(count, 2, generator=generator, dtype=torch.float64), times[:, 0], times[:, 1], times[:, 2]


def test_the_identity_holds_for_the_exact_mean_velocity() -> None:
    x, t, _, s = rows()
    u = mean_velocity(x, t, s)
    assert torch.allclose(derivative_target(mean_velocity, x, t, s, velocity(x, t)), u, rtol=0, atol=1e-8)
    other = derivative_target(lambda x, t, s: velocity(x, t), x, t, s, velocity(x, t))
    assert (other - velocity(x, t)).abs().amax() > 0.1, "the velocity itself does not solve it"


def test_the_parts_of_a_way_make_the_whole() -> None:
    x, t, m, s = rows()
    u = split_target(mean_velocity, x, t, m, s, mean_velocity(x, t, m))
    assert torch.allclose(u, mean_velocity(x, t, s), rtol=0, atol=1e-8)
    first = torch.randn_like(x)
    assert torch.equal(split_target(lambda x, t, s: 0 * x, x, t, t, t, first), first)


def test_an_even_error_of_the_student_shrinks_with_its_part_of_the_way() -> None:
    x, t, m, s = rows()
    target = split_target(lambda x, t, s: mean_velocity(x, t, s) + 1, x, t, m, s, mean_velocity(x, t, m))
    error = target - mean_velocity(x, t, s)
    assert torch.allclose(error, ((m - s) / (t - s))[:, None].expand_as(error), rtol=0, atol=1e-8)


def test_a_teachers_step_is_of_second_order() -> None:
    x, t = rows()[0], torch.full((64,), 0.7, dtype=torch.float64)
    errors = []
    for step in (0.04, 0.02):
        m = t - step
        one = heun_velocity(velocity, x, t, m, velocity(x, t))
        errors.append(float((one - mean_velocity(x, t, m)).abs().mean()))
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert torch.equal(heun_velocity(velocity, x, t, t, velocity(x, t)), velocity(x, t))


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("finish", [False, True])
def test_the_sampler_lands_on_the_end_of_the_path(num_steps: int, finish: bool) -> None:
    x = rows()[0]
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    sampler = make_sampler("mean_velocity")
    landed = sample(Exact(), sampler, times, shape=(2,), seeds=range(64), x_start=x, finish=finish)
    one = torch.ones(64, dtype=torch.float64)
    assert torch.allclose(landed.x, end(FLOW, x, one, 0 * one), rtol=0, atol=1e-9)
    assert landed.nfe == num_steps


@pytest.mark.parametrize("name", ["vp", "edm", "cosine", "ve"])
def test_under_another_process_the_way_is_that_process_own(name: str) -> None:
    process, x = PROCESSES[name](), rows()[0]
    times = torch.tensor([0.9, 0.2], dtype=torch.float64)
    t, s = times[:1].expand(64), times[1:].expand(64)
    start = process.sigma(t)[:, None] * x
    denoiser = TransferredDenoiser(Exact(), process)
    moved = sample(
        denoiser, make_sampler("mean_velocity"), times, shape=(2,), seeds=range(64), x_start=start, finish=False
    )
    assert torch.allclose(moved.x, end(process, start, t, s), rtol=1e-8, atol=1e-8)


def test_a_model_without_mean_velocities_takes_a_ddim_step() -> None:
    x, denoiser = rows()[0], DATA.denoiser(FLOW)
    times = torch.linspace(1, 0, 5, dtype=torch.float64)
    one, other = (
        sample(denoiser, make_sampler(name), times, shape=(2,), seeds=range(64), x_start=x).x
        for name in ("mean_velocity", "ddim")
    )
    assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_labels_are_kept_with_the_target_time() -> None:
    seen: list[tuple[Condition | None, Any]] = []

    class Watching(Exact):
        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
            seen.append((cond, evaluation))
            return super().forward(x_t, t, cond, evaluation)

    label = Condition(label=torch.tensor([3, 4]))
    times = torch.tensor([1.0, 0.4, 0.0])
    sample(Watching(), make_sampler("mean_velocity"), times, shape=(2,), seeds=[1, 2], cond=label)
    assert [cond.label.tolist() for cond, _ in seen] == [[3, 4]] * 2  # type: ignore[union-attr]
    assert [requested.target_time.tolist() for _, requested in seen] == [[0.4000000059604645] * 2, [0.0, 0.0]]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_adaptive_loss_divides_its_gradient(power: float) -> None:
    error = torch.tensor([[3.0, 4.0], [0.0, 1e-3]], dtype=torch.float64, requires_grad=True)
    adaptive_loss(error, power, 1e-3).sum().backward()
    squared = error.detach().square().sum(1, keepdim=True)
    assert torch.allclose(error.grad, 2 * error.detach() / (squared + 1e-3) ** power)  # type: ignore[arg-type]


class Rows(NamedTuple):
    """A batch in float64."""

    x_0: Tensor
    given: Given


def system(**options: object) -> MeanFlowObjective:
    torch.manual_seed(0)
    config = MeanFlowConfig(network=MLPConfig(width=16, num_blocks=1), **options)  # type: ignore[arg-type]
    built = config.build((2,), ()).double()
    assert isinstance(built, MeanFlowObjective)
    return built


def batch(count: int = 400) -> Rows:
    x_0 = DATA.sample(count, torch.Generator().manual_seed(1))
    return Rows(x_0, Given())


def taught(student: MeanFlowObjective, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give it the exact velocity for a teacher."""
    student._teacher = object()  # type: ignore[assignment]
    monkeypatch.setattr(student, "_velocity", lambda x_t, t, cond: velocity(x_t, t))


def test_the_exact_mean_velocity_has_no_loss_with_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, student = Exact(), system(teacher_step=0.01, equal_share=0.3).eval()
    taught(student, monkeypatch)
    for name in ("denoiser", "threaded_denoiser"):  # of the target and of the student
        monkeypatch.setattr(student.model, name, lambda precision=None: exact)
    assert float(student(batch(), "main", StepRandom(0, 0)).loss) < 1e-9
    monkeypatch.setattr(exact, "output", lambda x, t, cond, requested: velocity(x, t))
    assert float(student(batch(), "main", StepRandom(0, 0)).loss) > 1e-6


def test_the_teacher_goes_no_further_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    student, missing = system(teacher_step=0.2, equal_share=0.0), []
    taught(student, monkeypatch)
    x, t, _, s = rows()

    def watched(x: Tensor, m: Tensor, cond: Condition) -> Tensor:
        missing.append(m)
        return velocity(x, m)

    monkeypatch.setattr(student, "_velocity", watched)
    student._target(x, t, s, velocity(x, t), Condition(), StepRandom(0, 0))
    assert len(missing) == 1 and bool((missing[0] >= s).all()) and bool((t - missing[0] <= 0.2).all())
    assert float((t - missing[0]).amax()) > 0.15


def test_without_a_teacher_the_velocity_is_right_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    student = system(equal_share=0.0).eval()
    monkeypatch.setattr(student.model, "denoiser", lambda precision=None: Exact())
    data, rng = batch(20_000), StepRandom(0, 0)
    t, s = student._times(len(data.x_0), rng)
    x_t = FLOW.diffuse(data.x_0, eps := rng.normal(data.x_0, "eps"), t)
    target = student._target(x_t, t, s, eps - data.x_0, Condition(), rng)
    error = target - mean_velocity(x_t, t, s)
    assert bool((error.mean(0).abs() < 4 * error.std(0) / len(error) ** 0.5).all())


def test_times_are_in_order_and_as_often_equal_as_requested() -> None:
    t, s = system(equal_share=0.25)._times(20_000, StepRandom(0, 0))
    assert bool((s <= t).all()) and float((s == t).double().mean()) == pytest.approx(0.25, abs=0.01)
    median = float(torch.stack([t, s])[:, s < t].median())
    assert median == pytest.approx(float(torch.tensor(-0.4).sigmoid()), abs=0.01)


def test_its_own_denoiser_is_a_velocity_where_no_time_is_reported() -> None:
    student, (x, t, _, s) = system(), rows()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    requested = (None, Evaluation(target_time=t), Evaluation(target_time=s))
    none, same, far = (student.model.denoiser()(x, t, None, evaluation).x_0 for evaluation in requested)
    assert torch.equal(none, same) and not torch.allclose(none, far, atol=1e-3)


def test_gradients_reach_every_weight_with_and_without_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    for with_teacher in (False, True):
        student = system().train()
        if with_teacher:
            taught(student, monkeypatch)
        for parameter in student.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        student(batch(), "main", StepRandom(0, 0)).loss.backward()
        assert all(bool(parameter.grad.any()) for parameter in student.parameters() if parameter.grad is not None)
        assert student.model.network.embedding.until.weight.grad is not None  # type: ignore[union-attr]  # data
