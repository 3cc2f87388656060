"""Distribution matching on Gaussians, whose scores are known, and its two due."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import ClippedDenoiser, Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import per_row
from undiffuse.data.given import Given
from undiffuse.losses.distribution_matching import matching_direction, matching_loss
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.objectives.distribution_matching import (
    FAKE_SCORE,
    STUDENT,
    DistributionMatchingConfig,
    DistributionMatchingObjective,
)
from undiffuse.objectives.teacher import copy_of
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid

NETWORK = {"name": "mlp", "width": 16, "num_blocks": 1}


def gaussian(mean: float, std: float) -> GaussianMixture:
    moments = torch.tensor([[mean], [std**2]], dtype=torch.float64)
    return GaussianMixture.gaussian(*moments)


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_the_direction_is_the_difference_of_the_scores(name: str) -> None:
    """Of the samples N(1, 0.5^2) and the data N(-0.5, 0.8^2), both noised to t."""
    process = PROCESSES[name]()
    t = process.time_of_log_snr(torch.linspace(-3, 3, 7, dtype=torch.float64))
    x_0, x_t = torch.linspace(-2, 2, 7).double()[:, None], torch.linspace(-3, 3, 7).double()[:, None]
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]

    def score(mean: float, std: float) -> Tensor:
        return -(x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    own, teacher = (gaussian(*of).denoiser(process)(x_t, t).x_0 for of in ((1.0, 0.5), (-0.5, 0.8)))
    expected = sigma**2 / alpha * (score(1.0, 0.5) - score(-0.5, 0.8)) / (x_0 - teacher).abs()
    torch.testing.assert_close(matching_direction(x_0, teacher, own), expected, rtol=1e-9, atol=1e-12)


def test_the_loss_has_the_direction_for_a_gradient() -> None:
    x_0, direction = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    x_0.requires_grad_()
    matching_loss(x_0, direction).sum().backward()
    torch.testing.assert_close(x_0.grad, direction / 8)


def test_samples_that_follow_it_become_the_data() -> None:
    """m + s z with its exact denoiser for a fake score goes from N(1, 0.3^2) to N(-0.5, 0.8^2), spread and all."""
    process, data = FlowProcess(), gaussian(-0.5, 0.8).denoiser(FlowProcess())
    generator = torch.Generator().manual_seed(0)
    mean, log_std = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, -1.2))
    optimizer = torch.optim.Adam([mean, log_std], lr=0.02)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        z, eps = torch.randn(2, 512, 1, dtype=torch.float64, generator=generator)
        x_0 = mean + log_std.exp() * z
        t = 0.02 + 0.96 * torch.rand(512, dtype=torch.float64, generator=generator)
        x_t = process.diffuse(x_0.detach(), eps, t)
        own = gaussian(mean.item(), log_std.exp().item()).denoiser(process)
        loss = matching_loss(x_0, matching_direction(x_0.detach(), data(x_t, t).x_0, own(x_t, t).x_0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mean.item() == pytest.approx(-0.5, abs=0.05)
    assert log_std.exp().item() == pytest.approx(0.8, abs=0.05)


class Held:
    """A ``LazyTeacher`` whose teacher is at hand."""

    def __init__(self, teacher: Any) -> None:
        self.teacher = teacher

    def on(self, device: torch.device) -> Any:
        return self.teacher


class Rows(NamedTuple):
    """A batch."""

    x_0: Tensor
    given: Given


BATCH = Rows(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), Given())


def system(**options: object) -> DistributionMatchingObjective:
    """A student whose fake score is its teacher still."""
    torch.manual_seed(0)
    teacher = validate(DiffusionConfig, {"network": NETWORK}).build((2,), ()).model
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    config = validate(DistributionMatchingConfig, {"network": NETWORK, "teacher": {"path": "nowhere"}, **options})
    built = config.build((2,), ())
    assert isinstance(built, DistributionMatchingObjective)
    for parameter in built.model.network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    built._teacher = Held(teacher.eval().requires_grad_(False))  # type: ignore[assignment]
    built.fake_score = copy_of(teacher.network, learns=True)
    return built


def test_where_the_fake_score_reports_what_the_teacher_reports_nothing_moves() -> None:
    student = system()
    assert float(student(BATCH, STUDENT, StepRandom(0, 0)).per_sample.max()) == 0
    with torch.no_grad():
        for parameter in student._fake_network.parameters():
            parameter.mul_(1.1)
    assert float(student(BATCH, STUDENT, StepRandom(0, 0)).per_sample.min()) > 0


@pytest.mark.parametrize("phase", [FAKE_SCORE, STUDENT])
def test_each_turn_moves_its_own_network(phase: str) -> None:
    student = system()
    with torch.no_grad():
        for parameter in student._fake_network.parameters():
            parameter.mul_(1.1)
    with student.learning(student.phase(phase)):
        student(BATCH, phase, StepRandom(0, 0)).loss.backward()
    others = {FAKE_SCORE: STUDENT, STUDENT: FAKE_SCORE}
    assert all(parameter.grad is not None for parameter in student.phase(phase).parameters())
    assert student.phase(others[phase]).parameters(), "asked for no gradient in there alone"
    assert all(parameter.grad is None for parameter in student.phase(others[phase]).parameters())


def test_the_fake_score_learns_what_the_student_makes() -> None:
    """Its loss is the denoising loss of the samples, not of the data."""
    student = system()
    report = student(BATCH, FAKE_SCORE, StepRandom(0, 0))
    far = Rows(BATCH.x_0 + 100, BATCH.given)  # with one step the student never sees the data
    assert torch.equal(student(far, FAKE_SCORE, StepRandom(0, 0)).per_sample, report.per_sample)
    with torch.no_grad():
        student.model.network.head.bias.add_(1)  # type: ignore[union-attr, operator]
    assert not torch.equal(student(BATCH, FAKE_SCORE, StepRandom(0, 0)).per_sample, report.per_sample)


def test_the_student_comes_as_often_as_requested() -> None:
    student = system(fake_score_steps=3)
    due = [[phase.name for phase in student.phases_due(step)] for step in range(4)]
    assert due == [[FAKE_SCORE]] * 2 + [[FAKE_SCORE, STUDENT], [FAKE_SCORE]]


class Override(Denoiser):
    """Notes what a student is asked last, and of how many rows each time."""

    def __init__(self) -> None:
        super().__init__()
        self.process, self.sizes = FlowProcess(), list[int]()

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        self.x_t, self.t = x_t, t
        self.sizes.append(len(x_t))
        return Denoised(x_t)


def requested_from(student: DistributionMatchingObjective, batch: Rows, monkeypatch: pytest.MonkeyPatch) -> Override:
    """What the student is asked last, for the sample that is to be moved."""
    requested = Override()
    monkeypatch.setattr(student.model, "threaded_denoiser", lambda: requested)
    student._generate(batch.x_0, Condition(), STUDENT, StepRandom(0, 0))
    return requested


@pytest.mark.parametrize("simulate", [True, False])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_it_is_taught_at_the_times_that_it_samples_at(
    num_steps: int, simulate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = {"sampler": "consistency", "num_steps": num_steps, "grid": "uniform"}
    requested = requested_from(system(sampling=sampling, simulate=simulate), BATCH, monkeypatch)
    times = {round(1 - step / num_steps, 9) for step in range(num_steps)}
    assert {round(float(t), 9) for t in requested.t} == times


def test_steps_after_the_first_meet_noised_data_where_none_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Rows(BATCH.x_0 + 100, BATCH.given)
    student = system(sampling={"sampler": "consistency", "num_steps": 2, "grid": "uniform"}, simulate=False)
    requested = requested_from(student, far, monkeypatch)
    signal = requested.x_t - per_row(1 - requested.t, requested.x_t) * far.x_0
    assert float((signal / per_row(requested.t, signal)).abs().max()) < 5  # sigma eps is all that is left


def test_steps_after_the_first_meet_what_the_steps_before_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that changes nothing, f(x) = x: var_s = alpha_s^2 var_t + sigma_s^2 step by step, no data in it."""
    many = Rows(torch.full((12_000, 2), 100.0), Given())
    student = system(sampling={"sampler": "consistency", "num_steps": 3, "grid": "uniform", "clip_x_0": False})
    requested = requested_from(student, many, monkeypatch)
    variance, counts = 1.0, []
    for t in (1.0, 2 / 3, 1 / 3):
        variance = (1 - t) ** 2 * variance + t**2
        rows = requested.x_t[(requested.t - t).abs() < 1e-6]
        counts.append(len(rows))
        assert float(rows.var()) == pytest.approx(variance, rel=0.06), t
        assert abs(float(rows.mean())) < 0.05
    assert min(counts) > 3_700 and sum(counts) == 12_000


class AsTaught:
    """The noise of a student turn, for a sampler."""

    def __init__(self, rng: StepRandom) -> None:
        self.rng, self.number = rng, 0

    def prior(self, like: Tensor) -> Tensor:
        return self.rng.normal(like, f"start {STUDENT}")

    def at(self, index: Any) -> AsTaught:
        self.number = int(index[0])
        return self

    def normal(self, like: Tensor) -> Tensor:
        return self.rng.normal(like, f"again {self.number} {STUDENT}")


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("process, parameterization", [("flow", "flow"), ("vp", "v"), ("ve", "edm")])
def test_a_student_is_taught_what_its_sampler_makes(process: str, parameterization: str, num_steps: int) -> None:
    """Each row is what the sampler makes at the row's step of the same noise, of its class, cut alike."""
    torch.manual_seed(0)
    options = {
        "process": {"name": process},
        "parameterization": parameterization,
        "network": {"name": "unet", "channels": 8, "multipliers": [1, 2], "num_blocks": 1, "norm_groups": 4},
        "teacher": {"path": "nowhere"},
        "class_conditional": True,
        "precision": "fp32",
        "sampling": {"sampler": "consistency", "num_steps": num_steps, "grid": "angle", "clip_x_0": True},
    }
    student = validate(DistributionMatchingConfig, options).build((1, 8, 8), ("a", "b", "c"))
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, 0, 0.15)
    assert isinstance(student, DistributionMatchingObjective) and student.model.clips
    rng, count = StepRandom(3, 7), 40
    cond = Condition(label=torch.arange(count) % 4 - 1)
    created = student._generate(torch.randn(count, 1, 8, 8), cond, STUDENT, rng).detach()
    assert (
        process == "ve" or num_steps == 1 or float(created.abs().max()) > 1
    )  # else it is all the same whether it is cut

    times = time_grid("angle", student.model.process, num_steps, student.model.log_snr_range)
    denoiser, along = ClippedDenoiser(student.model.denoiser()), list[Tensor]()
    sample(
        denoiser,
        make_sampler("consistency"),
        times,
        shape=(1, 8, 8),
        seeds=range(count),
        cond=cond,
        noise=AsTaught(rng),  # type: ignore[arg-type]
        callback=lambda progress: along.append(progress.x_0),
    )
    step = (rng.uniform(count, f"step {STUDENT}") * num_steps).long()
    assert set(step.tolist()) == set(range(num_steps))
    wanted = torch.stack(along)[step, torch.arange(count)]
    torch.testing.assert_close(created.clamp(-1, 1), wanted, rtol=1e-5, atol=1e-5)


def test_simulated_steps_are_no_part_of_the_gradient_and_meet_no_dropout() -> None:
    """The student turn differentiates the last jump alone, so earlier ones need no memory."""
    sampling = {"sampler": "consistency", "num_steps": 2, "grid": "uniform"}
    student, rng = system(sampling=sampling, network={**NETWORK, "dropout": 0.5}), StepRandom(0, 0)
    times, last = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), torch.ones(60, dtype=torch.long)
    reached = student.train()._simulate(BATCH.x_0, BATCH.given, times, last, STUDENT, rng)
    assert not reached.requires_grad and student.model.network.training
    assert torch.equal(student.eval()._simulate(BATCH.x_0, BATCH.given, times, last, STUDENT, rng), reached)
    assert student._generate(BATCH.x_0, Condition(), STUDENT, rng).requires_grad


def test_a_compiled_student_is_requested_of_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other size would be compiled anew; what comes out is the same."""
    student = system(sampling={"sampler": "consistency", "num_steps": 4, "grid": "uniform"})
    plain = requested_from(student, BATCH, monkeypatch)
    assert len(set(plain.sizes)) == 4
    monkeypatch.setattr(student.model.network, "_compiled_call_impl", object())
    compiled = requested_from(student, BATCH, monkeypatch)
    assert compiled.sizes == [60] * 4
    assert torch.equal(compiled.x_t, plain.x_t)


def test_the_fake_score_goes_into_checkpoints_and_not_into_the_model() -> None:
    student, other = system(), system()
    assert not [name for name in student.model.state_dict() if FAKE_SCORE in name]
    with torch.no_grad():
        next(iter(student._fake_network.parameters())).add_(1)
    other.load_state(student.state())
    pairs = zip(student.phase(FAKE_SCORE).parameters(), other.phase(FAKE_SCORE).parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_around_another_model_all_else_is_shared() -> None:
    student = system()
    twin = student.around(copy.deepcopy(student.model).eval())
    assert twin.fake_score is student.fake_score and twin.model is not student.model
    assert student.training and not twin.training
    with torch.no_grad():
        twin.model.network.head.bias.add_(1)  # type: ignore[union-attr, operator]
    one, two = (each(BATCH, FAKE_SCORE, StepRandom(0, 0)).per_sample for each in (student, twin))
    assert not torch.equal(one, two)
