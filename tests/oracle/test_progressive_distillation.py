"""Progressive distillation: the target is exactly two steps of the teacher, and perfect students lose nothing."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.core.random import StepRandom
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.losses.progressive_distillation import two_step_target
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.request import SampleRequest
from undiffuse.networks import MLPConfig
from undiffuse.objectives.progressive import ProgressiveConfig, ProgressiveObjective
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid

DATA = GaussianMixture(torch.tensor([[0.6, -0.3], [-0.5, 0.4]]), torch.tensor([0.05, 0.2]))


class Student(Denoiser):
    """The perfect student of ``teacher``: at a knot of its grid it says what two of the teacher's steps do."""

    def __init__(self, teacher: Denoiser, times: Tensor) -> None:
        super().__init__()
        self.teacher, self.times, self.process = teacher, times, teacher.process

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        first = int((self.times - t[0]).abs().argmin())
        at = [self.times[first + k].expand(len(x_t)) for k in range(3)]
        last = torch.full((len(x_t),), first + 2 == len(self.times) - 1)
        return Denoised(two_step_target(self.teacher, x_t, at[0], at[1], at[2], last))


def drawn(denoiser: Denoiser, grid: str, num_steps: int, finish: bool) -> Tensor:
    times = time_grid(grid, denoiser.process, num_steps)
    result = sample(
        denoiser, make_sampler("ddim"), times, shape=(2,), seeds=range(50), finish=finish, dtype=torch.float64
    )
    return result.x


@pytest.mark.parametrize("name", ["flow", "vp", "sub_vp", "cosine", "edm", "ve", "ddpm_cosine"])
@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
@pytest.mark.parametrize("finish", [False, True])
def test_perfect_students_end_where_their_first_teacher_does(name: str, grid: str, finish: bool) -> None:
    process = PROCESSES[name]()
    if not finish and float(process.sigma(torch.zeros(1))) > 0:
        return  # such a process samples with a last step that returns x_0-hat, which is what is distilled
    teacher: Denoiser = DATA.denoiser(process)
    expected = drawn(teacher, grid, 8, finish)
    for num_steps in (4, 2, 1):
        teacher = Student(teacher, time_grid(grid, process, 2 * num_steps))
        assert torch.allclose(drawn(teacher, grid, num_steps, finish), expected, rtol=0, atol=1e-6)
    assert (drawn(DATA.denoiser(process), grid, 1, finish) - expected).abs().mean() > 1e-3, "untaught, it does not"


def test_the_weight_is_at_least_that_of_x_0() -> None:
    process, t = FlowProcess(), torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    weight = torch.exp(WEIGHTINGS["truncated_snr"]()(process, t))
    assert torch.allclose(weight, torch.tensor([81.0, 1.0, 1.0, 1.0], dtype=torch.float64))


class Rows(NamedTuple):
    """A batch in float64."""

    x_0: Tensor
    given: Given


def system(**options: object) -> ProgressiveObjective:
    torch.manual_seed(0)
    given = {"base_images": 100, "start_steps": 4, "stage_images": 50, **options}
    config = ProgressiveConfig(network=MLPConfig(width=16, num_blocks=1), **given)  # type: ignore[arg-type]
    built = config.build((2,), ()).double()
    assert isinstance(built, ProgressiveObjective)
    built.begin(torch.device("cpu"))
    return built


def batch(count: int = 64) -> Rows:
    x_0 = DATA.sample(count, torch.Generator().manual_seed(1))
    return Rows(x_0, Given())


def test_stages_are_a_function_of_the_images_seen() -> None:
    student = system()
    assert [student.config.steps_at(images) for images in (0, 99, 100, 149, 150, 200, 10**6)] == [0, 0, 4, 4, 2, 1, 1]
    assert [system(end_steps=2).config.steps_at(images) for images in (100, 199, 10**6)] == [4, 2, 2]


def test_at_the_end_of_a_stage_the_average_takes_the_teachers_place() -> None:
    student = system()
    average = copy.deepcopy(student.model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    student.after_step(average, 64)
    assert student.state() == {} and int(student.model.student_steps) == 0
    student.after_step(average, 128)
    assert int(student.model.student_steps) == int(average.student_steps) == 4
    state = student.state()
    for name, value in average.network.state_dict().items():
        assert torch.equal(student.model.network.state_dict()[name], value)
        assert torch.equal(state[f"teacher.{name}"], value)
    with torch.no_grad():
        average.network.head.weight.add_(1.0)  # type: ignore[union-attr, operator]
    assert not torch.equal(state["teacher.head.weight"], average.network.state_dict()["head.weight"])
    assert not [name for name in student.model.state_dict() if "teacher" in name], (
        "a saved model is without its teacher"
    )
    assert not [p for p in student.phases[0].parameters() if any(p is own for own in student.teacher.parameters())]  # type: ignore[union-attr]


def test_the_teacher_comes_back_from_a_checkpoint() -> None:
    student = system()
    student.after_step(copy.deepcopy(student.model), 128)
    with torch.no_grad():
        student.model.network.head.weight.add_(0.5)  # type: ignore[union-attr, operator]
    other = system()
    other.model.load_state_dict(student.model.state_dict())
    other.load_state(student.state())
    one, two = (each(batch(), "main", StepRandom(0, 3)).loss for each in (student, other))
    assert torch.equal(one, two) and int(other.model.student_steps) == 4


def test_the_loss_is_the_distance_from_two_teacher_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = system(), DATA.denoiser(FlowProcess())
    student.after_step(copy.deepcopy(student.model), 128)
    monkeypatch.setattr(student, "_teacher_denoiser", lambda: teacher)
    perfect = Student(teacher, time_grid("uniform", student.model.process, 8))

    class AsOutput:
        def output(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
            rows = [perfect(x_t[i : i + 1], t[i : i + 1]).x_0 for i in range(len(t))]
            return (x_t - torch.cat(rows)) / t[:, None]

    monkeypatch.setattr(student.model, "threaded_denoiser", lambda: AsOutput())
    report = student(batch(), "main", StepRandom(0, 0))
    assert float(report.loss) < 1e-15
    assert set(report.t.tolist()) == {1.0, 0.75, 0.5, 0.25}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_steps": 6, "end_steps": 4}, "times a power of two, got 6 and 4"),
        ({"start_steps": 1, "end_steps": 2}, "times a power of two, got 1 and 2"),
        ({"base_images": 0}, "either a teacher or base_images"),
        ({"parameterization": "eps"}, "ill-conditioned for x_0"),
        ({"sampling": {"sampler": "ddim", "num_steps": 1, "grid": "karras"}}, "different knots for half the steps"),
    ],
)
def test_what_cannot_be_distilled_is_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        system(**options)


def test_it_samples_in_the_steps_of_the_student_that_it_is() -> None:
    student = system(end_steps=2)
    assert student.config.sampling.num_steps == 2
    for images, steps in ((0, 8), (120, 4), (10**6, 2)):
        student.after_step(copy.deepcopy(student.model), images)
        assert student.model.sampling_record()["steps"] == steps
        assert student.float().model.sample(SampleRequest.of([1])).nfe == steps
    assert student.model.sample(SampleRequest.of([1], steps=5)).nfe == 5
