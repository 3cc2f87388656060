"""Consistency models from end to end: they beat their teacher at equal steps, resume exactly and load alone."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.config import validate
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.metrics.sliced import sliced_wasserstein
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load, read_config
from undiffuse.objectives.consistency import ConsistencyConfig, ConsistencyObjective
from undiffuse.objectives.from_model import objective_of
from undiffuse.objectives.teacher import TeacherConfig, load_teacher
from undiffuse.recipes import get_recipe
from undiffuse.recipes.few_step import consistency_distillation
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

POINTS: tuple[str, ...] = ("system.network.width=64", "system.network.num_blocks=2", "data.num_points=4000")
POINTS += (
    "batch_images=500",
    "log_every_images=5000",
    "validate_every_images=0",
    "validation_images=0",
    "preview_every_images=0",
)
POINTS += ("optimizer.learning_rate=5e-3", "optimizer.warmup_images=2000", "ema.halflife_images=5000")
SHORT = ["num_images=8000", "batch_images=500", "checkpoint_every_images=2000", "log_every_images=2000"]
SHORT += ["system.first_knots=4", "system.last_knots=16", "system.doubling_images=2000"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow matching on the Swiss roll."""
    folder = tmp_path_factory.mktemp("teacher")
    finished(configure("flow-swissroll", [*POINTS, "num_images=100000"], None, None, False), folder)
    return folder


def student_of(teacher: Path, *overrides: str, steps: int = 1) -> RunConfig:
    run = validate(RunConfig, read_config(teacher)["config"])
    return apply_overrides(consistency_distillation(TeacherConfig(path=str(teacher)), run, steps), list(overrides))


def finished(config: RunConfig, folder: Path) -> Trainer:
    trainer = Trainer(config, *split_data(config), folder)
    assert trainer.run()
    return trainer


@pytest.mark.slow  # test_training_without_a_teacher_learns is shorter
def test_a_student_beats_its_teacher_at_equal_steps(teacher: Path, tmp_path: Path) -> None:
    config = student_of(teacher, "num_images=150000", "batch_images=500", "ema.halflife_images=5000")
    finished(config, tmp_path)
    student, old = load(tmp_path).module, load(teacher).module
    truth = split_data(config)[0].fetch(np.arange(2000)).x_0
    for steps in (1, 2):
        request = SampleRequest.of(range(2000), steps=steps)
        far = sliced_wasserstein(old.sample(SampleRequest.of(range(2000), steps=steps, sampler="euler")).x, truth)
        near = sliced_wasserstein(student.sample(request).x, truth)
        assert near < 0.4 * far, (steps, near, far)
    assert student.sample(SampleRequest.of(range(3))).nfe == 1


def test_a_resumed_run_is_the_uninterrupted_one(teacher: Path, tmp_path: Path) -> None:
    """Across a doubling of the knots, which the images seen decide."""
    config = student_of(teacher, *SHORT)
    whole = finished(config, tmp_path / "whole")
    for part in range(7):  # a step each
        again = Trainer(config, *split_data(config), tmp_path / "parts")
        assert again.resume() == (part > 0)
        assert not again.run(stop_after_seconds=0)
    again = Trainer(config, *split_data(config), tmp_path / "parts")
    assert again.resume()
    assert 0 < again.images < config.num_images
    assert again.run()
    assert int(again.objective.state()["seen"]) == config.num_images
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, again.objective.state_dict()[name]), name


def test_a_student_loads_without_its_teacher(teacher: Path, tmp_path: Path) -> None:
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    trainer = finished(student_of(moved, *SHORT), tmp_path / "student")
    names = set(trainer.objective.model.state_dict())
    assert names == set(load(teacher).module.state_dict())
    shutil.rmtree(moved)
    model = load(tmp_path / "student")
    assert model.sample(5, steps=2).shape == (5, 2)
    with pytest.raises(UsageError, match="no model at"):
        objective_of(model).begin(torch.device("cpu"))  # type: ignore[union-attr]


def test_it_begins_from_its_teacher(teacher: Path, tmp_path: Path) -> None:
    config = student_of(teacher, *SHORT)
    trainer, old = Trainer(config, *split_data(config), tmp_path), load(teacher).module.network
    for average in (trainer.objective.model, trainer.ema.average):
        for name, value in average.network.state_dict().items():  # type: ignore[union-attr]
            assert torch.equal(value, old.state_dict()[name]), name  # type: ignore[union-attr]
    fresh = config.model_copy(update={"system": config.system.model_copy(update={"teacher": None})})
    other = Trainer(fresh, *split_data(fresh), tmp_path)
    assert not all(
        torch.equal(value, old.state_dict()[name])  # type: ignore[union-attr]
        for name, value in other.objective.model.network.state_dict().items()  # type: ignore[union-attr]
    )


def test_a_teacher_of_other_weights_or_data_is_rejected(teacher: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this run expects 000000000000"):
        load_teacher(TeacherConfig(path=str(teacher), sha256=64 * "0"))
    sha256 = load(teacher).weights_sha256
    taught = load_teacher(TeacherConfig(path=str(teacher), sha256=sha256))
    assert not any(p.requires_grad for p in taught.parameters())
    config = student_of(teacher, *SHORT, f"system.teacher.path={trained}")
    with pytest.raises(UsageError, match=r"shape \(1, 8, 8\), the student of \(2,\)"):
        Trainer(config, *split_data(config), tmp_path)


def system_of(shape: tuple[int, ...] = (2,), **options: Any) -> ConsistencyObjective:
    network = {"name": "mlp", "width": 16, "num_blocks": 1}
    system = validate(ConsistencyConfig, {"network": network, **options}).build(shape, ())
    assert isinstance(system, ConsistencyObjective)
    generator = torch.Generator().manual_seed(0)
    for parameter in system.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return system


def batch_of(count: int, *shape: int) -> Batch:
    rows = torch.arange(count)
    x_0 = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    return Batch(x_0, Given(), rows)


def test_both_ends_of_a_pair_get_the_same_dropout() -> None:
    """Two neighbouring times of a million then give nearly the same; with other masks they would not."""
    network = {"name": "unet", "channels": 8, "multipliers": [1], "num_blocks": 1, "dropout": 0.5, "norm_groups": 2}
    knots = {"first_knots": 10**5, "last_knots": 10**5, "knot_grid": "uniform", "weighting": "uniform"}
    system = system_of((1, 8, 8), network=network, sampling={"clip_x_0": False}, **knots).train()
    assert float(system(batch_of(8, 1, 8, 8), "main", StepRandom(0, 0)).per_sample.max()) < 0.05


@pytest.mark.parametrize("gap", ["knots", "ratio"])
def test_no_pair_goes_beyond_the_end_of_its_segment(gap: str) -> None:
    """With no more knots than segments, of another grid, the next knot below often lies there."""
    system = system_of(gap=gap, segments=4, first_knots=4, last_knots=4, knot_grid="log_snr").train()
    t, s, end = system._times(500, StepRandom(0, 0))
    assert bool((t > s).all()) and bool((s >= end).all()) and 0 < int((s == end).sum()) < 500


def test_only_whole_steps_count_images_and_a_validation_looks_at_the_last_knots() -> None:
    system = system_of(first_knots=2, last_knots=64, doubling_images=10)
    average = copy.deepcopy(system.model)
    batch, rng = batch_of(10, 2), StepRandom(0, 0)
    first = system.eval()(batch, "main", rng).t
    times = []
    for step in range(1, 8):
        times.append(system.train()(batch, "main", rng).t)
        assert torch.equal(system(batch, "main", rng).t, times[-1])  # another micro-batch of the same step
        assert int(system.seen) == 10 * (step - 1)
        system.after_step(average, 10 * step)
    assert int(system.seen) == int(system.around(average).seen) == 70
    assert torch.equal(system.eval()(batch, "main", rng).t, first)
    assert not torch.equal(times[0], first) and torch.equal(times[-1], first)


@pytest.mark.parametrize("weighting", ["gap", "output", "uniform"])
@pytest.mark.parametrize("gap", ["knots", "ratio"])
@pytest.mark.parametrize(("process", "parameterization"), [("flow", "flow"), ("vp", "v"), ("edm", "edm"), ("ve", "v")])
def test_every_choice_gives_finite_gradients(process: str, parameterization: str, gap: str, weighting: str) -> None:
    options: dict[str, Any] = {"process": {"name": process}, "parameterization": parameterization, "segments": 2}
    system = system_of(gap=gap, weighting=weighting, **options).train()
    report = system(batch_of(64, 2), "main", StepRandom(0, 0))
    report.loss.backward()
    assert report.per_sample.shape == report.t.shape == (64,)
    assert all(bool(p.grad.isfinite().all()) for p in system.parameters() if p.grad is not None)
    assert bool(system.model.sample(SampleRequest.of(range(3))).x.isfinite().all())


@pytest.mark.parametrize(
    ("process", "parameterization", "message"),
    [
        ("vp", "eps", "multiplies the network's error by 152"),
        ("flow", "eps", "use v, flow or edm"),
        ("flow", "x0", "does not return x_0 at the clean end"),
    ],
)
def test_rows_that_make_no_consistency_function_are_rejected(process: str, parameterization: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        system_of(process={"name": process}, parameterization=parameterization)


def test_senseless_knots_are_rejected() -> None:
    with pytest.raises(UsageError, match="last_knots must be at least first_knots, got 4 and 8"):
        system_of(first_knots=8, last_knots=4)


def test_training_without_a_teacher_learns(tmp_path: Path) -> None:
    """One step of the trained function against one step of its first weights' average."""
    base = configure("edm-swissroll", [*POINTS, "num_images=100000"], None, None, False)
    system = ConsistencyConfig(
        **{key: getattr(base.system, key) for key in ("process", "parameterization", "network", "time_density")},
        last_knots=80,
        doubling_images=25_000,
    )
    config = base.model_copy(update={"system": system})
    finished(config, tmp_path)
    truth = split_data(config)[0].fetch(np.arange(2000)).x_0
    samples = load(tmp_path).module.sample(SampleRequest.of(range(2000), steps=1)).x
    assert sliced_wasserstein(samples, truth) < 0.3 * sliced_wasserstein(torch.zeros(1, 2), truth)


def test_the_recipe_doubles_seven_times() -> None:
    config = get_recipe("ct-mnist")
    assert isinstance(config.system, ConsistencyConfig)
    doublings = config.num_images // config.system.doubling_images - 1
    assert config.system.first_knots * 2**doublings == config.system.last_knots
