"""``undiffuse distill``: a trained model becomes one of a few steps; stopped and resumed, it ends the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import TINY, CommandLine, assert_same_run, run_until, state_of, trainer_of

from undiffuse.api import training
from undiffuse.api.distilling import configure
from undiffuse.api.training import split_data
from undiffuse.models.files.weights import read_weights
from undiffuse.models.saved import load
from undiffuse.recipes.few_step import DISTILLATIONS
from undiffuse.training.nonfinite import NonFiniteError
from undiffuse.training.trainer import Trainer

FLOW = ("system.process=flow", "system.parameterization=flow", "system.weighting=flow", "system.time_density=uniform")
#: Small enough for a test: three stages of a progressive student within 144 images.
SMALL = ("num_images=144", "batch_images=16", "checkpoint_every_images=48", "preview_every_images=0")
SMALL += ("validate_every_images=64", "validation_images=32", "log_every_images=32")
OPTIONS = {
    "progressive": ("system.start_steps=4", "system.stage_images=48"),
    "mean_flow": ("num_images=96",),
    "consistency": ("num_images=96",),
    "distribution_matching": ("num_images=96",),
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional flow of digits, barely trained; not to be changed."""
    out = tmp_path_factory.mktemp("teacher") / "tiny"
    options = [*TINY, *FLOW, "system.sampling.sampler=heun", "system.sampling.num_steps=4"]
    assert training.train_run(training.configure("ddpm-digits", options, None, out, False), out, device="cpu")
    return out


def test_every_method_is_tried_here() -> None:
    assert set(OPTIONS) == set(DISTILLATIONS)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_student_is_created_resumed_and_needs_its_teacher_no_more(
    method: str, teacher: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    mine = tmp_path / "teacher"
    shutil.copytree(teacher, mine)
    call = ("distill", mine, *SMALL, *OPTIONS[method], "--steps", 1, "--method", method, "--device", "cpu")
    done = undiffuse.fine(*call, "--out", tmp_path / "whole")
    assert "undiffuse sample" in done.out
    undiffuse.fine(*call, "--out", tmp_path / "parts", "--stop-after", "0.01s")
    again = undiffuse.fine(*call, "--out", tmp_path / "parts", "--resume")
    assert "resuming" in again.out + again.err
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(mine)
    model = load(tmp_path / "whole")
    assert model.module.sampling_record()["steps"] == 1 and len(model.class_names) == 10
    assert model.sample(3).shape == (3, 1, 8, 8)
    kept = [name for name in read_weights(tmp_path / "whole" / "model.safetensors") if not name.startswith("network.")]
    assert set(kept) <= {"seen", "student_steps"}, "neither teacher nor fake score"
    measured = tmp_path / "measured.json"
    undiffuse.fine("evaluate", tmp_path / "whole", "--metrics", "copying", "--num", 60, "--out", measured)
    found = [row["metric"] for row in json.loads(measured.read_text())["results"]]
    assert "neighbour_ratio" in found and "training_gap" not in found, "its loss needs what is gone"


@pytest.mark.parametrize("method", OPTIONS)
def test_a_student_samples_at_its_teacher_s_temperature(
    method: str, teacher: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    undiffuse.fine("export", teacher, "--temperature", 0.8, "--out", tmp_path / "cool")
    assert configure(tmp_path / "cool", 2, method, SMALL, None).system.sampling.temperature == 0.8
    assert configure(teacher, 2, method, SMALL, None).system.sampling.temperature == 1


@pytest.mark.parametrize("method", ["progressive", "mean_flow", "distribution_matching"])
def test_a_student_begins_as_its_teacher(method: str, teacher: Path, tmp_path: Path) -> None:
    config = configure(teacher, 2, method, SMALL, None)
    student = Trainer(config, *split_data(config), tmp_path).objective.model
    theirs, own = read_weights(teacher / "model.safetensors"), student.state_dict()
    assert [name for name in theirs if not torch.equal(theirs[name], own[name])] == []


def test_a_checkpoint_within_a_stage_holds_that_stages_teacher(teacher: Path, tmp_path: Path) -> None:
    config = configure(teacher, 1, "progressive", [*SMALL, *OPTIONS["progressive"], "num_images=80"], None)
    trainer = Trainer(config, *split_data(config), tmp_path)
    assert trainer.run()
    state = state_of(tmp_path)
    assert int(state["model.student_steps"]) == int(state["ema.student_steps"]) == 2
    stem = "network.stem.weight"
    first = read_weights(teacher / "model.safetensors")[stem]
    kept = state["training.teacher." + stem.removeprefix("network.")]
    assert not torch.equal(kept, first) and not torch.equal(kept, state[f"model.{stem}"])


ADVERSARIAL = 'system.adversarial={"student": 0.5, "discriminator": 1.0}'


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("progressive", OPTIONS["progressive"], id="within a later stage"),
        pytest.param(
            "distribution_matching",
            (ADVERSARIAL, "num_images=112"),
            id="with an adversarial loss",
        ),
    ],
)
def test_a_run_stopped_midway_ends_as_in_one(
    method: str, options: tuple[str, ...], teacher: Path, tmp_path: Path
) -> None:
    config = configure(teacher, 1, method, [*SMALL, *options], None)
    assert trainer_of(config, tmp_path / "whole").run()
    run_until(config, tmp_path / "parts", images=80)  # two steps into the progressive student's second stage
    again = trainer_of(config, tmp_path / "parts")
    assert again.resume() and again.run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_fake_score_s_gradient_that_is_not_finite_stops_the_run(teacher: Path, tmp_path: Path) -> None:
    config = configure(teacher, 1, "distribution_matching", SMALL, None)
    trainer = Trainer(config, *split_data(config), tmp_path)
    trainer.objective.phase("fake_score").parameters()[0].register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match="the network trained in phase 'fake_score'"):
        trainer.run()


def test_a_fake_score_that_is_not_finite_stops_the_run(teacher: Path, tmp_path: Path) -> None:
    config = configure(teacher, 1, "distribution_matching", SMALL, None)
    trainer = Trainer(config, *split_data(config), tmp_path)
    with torch.no_grad():
        trainer.objective.phase("fake_score").parameters()[0].fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="weights of the network trained in phase 'fake_score'"):
        trainer.run()


def test_a_student_of_the_distribution_draws_its_dropout_from_the_run(teacher: Path, tmp_path: Path) -> None:
    dropped = ("system.network.dropout=0.3", "num_images=64", "checkpoint_every_images=64")
    config = configure(teacher, 1, "distribution_matching", [*SMALL, *dropped], None)
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        assert Trainer(config, *split_data(config), tmp_path / name).run()
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    "other", ["system.network.channels=16", "system.parameterization=v", "system.network.num_blocks=2"]
)
def test_a_student_of_the_distribution_has_its_teacher_s_kind(
    other: str, teacher: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    call = ("distill", teacher, "--method", "distribution_matching", "--device", "cpu", *SMALL)
    assert "they differ" in undiffuse.rejected(*call, other, "--out", tmp_path / "x")


def test_a_student_begins_as_another_model(teacher: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    first = tmp_path / "first"
    undiffuse.fine("distill", teacher, *SMALL, "--steps", 2, "--device", "cpu", "--out", first)
    taught = read_weights(first / "model.safetensors")
    for method in ("consistency", "distribution_matching"):
        config = configure(teacher, 1, method, SMALL, None, first)
        started = Trainer(config, *split_data(config), tmp_path / method).objective.model.state_dict()
        assert all(torch.equal(started[name], value) for name, value in taught.items() if name.startswith("network."))
    rejected = undiffuse.rejected("distill", teacher, "--method", "mean_flow", "--start", first)
    assert "start as their teacher; leave --start out" in rejected
    assert "no model" in undiffuse.rejected("distill", teacher, "--start", tmp_path / "nowhere")
    other = ("distill", teacher, "system.network.num_blocks=2", "--device", "cpu", "--out", tmp_path / "y", *SMALL)
    undiffuse.fine(*other, "system.start=null", "num_images=16")
    for method in ("consistency", "distribution_matching"):
        started = ("distill", teacher, "--start", tmp_path / "y", "--method", method, "--device", "cpu", *SMALL)
        assert "they differ" in undiffuse.rejected(*started, "--out", tmp_path / "z")


def test_other_data_and_values_are_taken(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(teacher, 2, "mean_flow", ["num_images=77", "system.equal_share=0.5"], "digits")
    assert (config.num_images, config.system.equal_share) == (77, 0.5)  # type: ignore[attr-defined]
    assert config.system.teacher.path == str(teacher.resolve())  # type: ignore[attr-defined]
    assert config.recipe == "distilled-ddpm-digits"


def test_what_cannot_be_distilled_is_rejected(
    teacher: Path, trained: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    assert "one of 1, 2, 4, 8, got 3" in undiffuse.rejected("distill", teacher, "--steps", 3)
    assert "did you mean 'progressive'" in undiffuse.rejected("distill", teacher, "--method", "progresive")
    assert "ill-conditioned for x_0" in undiffuse.rejected("distill", trained, "--method", "progressive")
    assert "no model" in undiffuse.rejected("distill", tmp_path / "nothing")
    assert "--resume needs --out" in undiffuse.rejected("distill", teacher, "--resume")
    assert "no key" in undiffuse.rejected("distill", teacher, "system.start_step=4", "--out", tmp_path / "x")
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    sum_of_another = "system.teacher.sha256=" + "0" * 64
    rejected = undiffuse.rejected("distill", other, sum_of_another, "--out", tmp_path / "x", "--device", "cpu")
    assert "has weights" in rejected
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())


def test_a_student_of_another_network_is_rejected(teacher: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    wide = ("distill", teacher, "system.network.channels=16", "--out", tmp_path / "x", "--device", "cpu")
    assert "they differ" in undiffuse.rejected(*wide, "--method", "progressive")


def test_a_dry_run_writes_nothing(teacher: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    shown = undiffuse.fine("distill", teacher, "batch_images=8", "--dry-run", "--device", "cpu").out
    assert '"consistency"' in shown and "cost of 1,000 images" in shown
    assert json.loads((teacher / "config.json").read_text())["config"]["recipe"] == "ddpm-digits"
