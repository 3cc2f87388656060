"""What cannot start keeps no folder from another start; a resumed run may change what is no part of its result."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, last_checkpoint, log_rows_of, no_leftovers, run_until, state_of, trainer_of
from PIL import Image

from undiffuse.api import training
from undiffuse.api.configuration.runs import configure
from undiffuse.api.datasets.reference_data import own_data
from undiffuse.api.training import split_data
from undiffuse.data.storage.encoded import content_hash
from undiffuse.errors import UsageError
from undiffuse.files import write_json
from undiffuse.models.saved import load, read_config
from undiffuse.training import metrics_log
from undiffuse.training.config import (
    DECIDED_BY_FINGERPRINT,
    NO_PART_OF_THE_RESULT,
    PART_OF_THE_RESULT,
    RunConfig,
    differences,
)
from undiffuse.training.trainer import Trainer

ALL_OTHER = (
    *("loader.workers=1", "loader.resident=false", "log_every_images=48", "tensorboard=true"),
    *("validate_every_images=48", "validation_images=8", "preview_every_images=192", "preview_samples=2"),
    *("quality_every_images=96", "quality_samples=2", "quality_reference=held_out"),
    *("checkpoint_every_images=64", "checkpoint_every_seconds=1", "keep_checkpoints=7"),
)


def test_every_key_of_a_run_is_classified() -> None:
    groups = [PART_OF_THE_RESULT, NO_PART_OF_THE_RESULT, DECIDED_BY_FINGERPRINT]
    keys = [key for group in groups for key in group]
    assert sorted(key for key in keys if "." not in key) == sorted(RunConfig.model_fields)
    nested = {key for key in keys if "." in key}  # exceptions within a section that is a part
    assert nested == {"system.text.folder"} <= DECIDED_BY_FINGERPRINT and "system" in PART_OF_THE_RESULT
    assert {word.split("=")[0].split(".")[0] for word in ALL_OTHER} == NO_PART_OF_THE_RESULT


@pytest.mark.parametrize(
    "change", ["seed=1", "optimizer.betas=[0.9,0.99]", "ema.rampup=null", "system.network.channels=16", "augment=flip"]
)
def test_what_is_a_part_is_a_difference(change: str) -> None:
    old, new = (configure("ddpm-digits", [*TINY, *more], None, None, False) for more in ((), (change,)))
    assert any(line.startswith(change.split("=")[0]) for line in differences(old.model_dump(), new.model_dump()))


def test_what_is_no_part_of_the_result_may_be_another_when_a_run_is_resumed(
    trained: Path, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    board = SimpleNamespace(add_scalar=lambda name, value, images: drawn.append(name), close=lambda: None)
    monkeypatch.setattr(metrics_log, "_tensorboard", lambda folder, images: board)
    measured = {"metric": "count", "value": 2.0}
    monkeypatch.setattr(training, "quality_measure", lambda *_: lambda chunks: {**measured, "of": len(list(chunks))})
    run = tmp_path / "run"
    run_until(configure("ddpm-digits", [*TINY], None, None, False), run, 112)
    undiffuse.fine("train", *ALL_OTHER, "--resume", "--out", run)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    one, other = state_of(trained), state_of(run)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {row["kind"] for row in log_rows_of(run)} == {"train", "validation", "quality"}
    assert "train/loss" in drawn and "quality/value" in drawn


def test_tensorboard_without_its_extra_is_rejected_before_anything_is_created(
    tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "undiffuse[tensorboard]" in undiffuse.rejected("train", "ddpm-digits", *TINY, "tensorboard=true")
    assert not list(tmp_path.iterdir())


def broken_at(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = Trainer._one_step

    def broken(trainer: Trainer) -> None:
        if trainer.step == step:
            raise error
        one_step(trainer)

    monkeypatch.setattr(Trainer, "_one_step", broken)


@pytest.mark.parametrize("named", [True, False])
def test_out_of_memory_in_the_first_step_leaves_nothing(
    named: bool, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broken_at(0, MemoryError(), monkeypatch)
    out = ["--out", "runs/mine"] if named else []
    assert "batch_images" in undiffuse.rejected("train", "ddpm-digits", *TINY, *out, code=1)
    assert not list(tmp_path.iterdir())


def test_what_has_come_to_something_stays(
    tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(4, MemoryError(), monkeypatch)  # two rows of the metrics log and two checkpoints are there
    undiffuse.rejected("train", "ddpm-digits", *TINY, "--out", tmp_path / "run", code=1)
    assert len(log_rows_of(tmp_path / "run")) == 2 and last_checkpoint(tmp_path / "run").name == "images_000000000064"
    assert "already holds a run" in undiffuse.rejected("train", "ddpm-digits", "seed=1", "--out", tmp_path / "run")


def test_a_number_that_is_not_finite_at_once_leaves_its_evidence_and_gives_way(
    tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_check_loss", lambda self, report, batch, *_: self._stop("spoilt", "none", [batch]))
        line = undiffuse.rejected("train", "ddpm-digits", *TINY, "--out", run, code=1)
    assert str(run / "nonfinite_step_0") in line and (run / "nonfinite_step_0" / "report.json").is_file()
    undiffuse.fine("train", "ddpm-digits", *TINY, "num_images=16", "optimizer.learning_rate=1e-5", "--out", run)
    assert (run / "nonfinite_step_0").is_dir()


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_run_that_was_killed_at_once_gives_way(
    resume: tuple[str, ...], tmp_path: Path, undiffuse: CommandLine
) -> None:
    run = tmp_path / "run"
    trainer = trainer_of(configure("ddpm-digits", [*TINY], None, None, False), run)
    write_json(run / "config.json", trainer.record)
    (run / "metrics.jsonl").touch()
    undiffuse.fine("train", "ddpm-digits", *TINY, "num_images=16", "seed=1", "--out", run, *resume)
    assert no_leftovers(run)


def test_a_configuration_of_somebody_else_does_not_give_way(tmp_path: Path, undiffuse: CommandLine) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "another"}')
    assert "already holds a run" in undiffuse.rejected("train", "ddpm-digits", *TINY, "--out", tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "another"}'


def some_images(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    for number, image in enumerate(np.random.default_rng(seed).integers(0, 256, (40, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_data_may_lie_elsewhere_when_a_run_is_resumed(tmp_path: Path, undiffuse: CommandLine) -> None:
    data, run = some_images(tmp_path / "images"), tmp_path / "run"
    options = (
        "system.class_conditional=false",
        "data.size=8",
        "num_images=64",
        "batch_images=16",
        "checkpoint_every_images=16",
    )
    first = ("train", "ddpm-digits", *TINY, *options, "--data", data, "--out", run)
    undiffuse.fine(*first, "--stop-after", "0.001s")
    data = data.rename(tmp_path / "moved")
    undiffuse.fine("train", "--resume", "--out", run, "--data", data, "--stop-after", "0.001s")
    assert read_config(run)["config"]["data"]["path"] == str(data)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", data))
    assert "resuming" in undiffuse.fine("train", "--resume", "--out", run, "--data", archive).out
    (data / "0.png").write_bytes((data / "1.png").read_bytes())
    line = undiffuse.rejected("train", "--resume", "--out", run, "--data", data)
    assert f"the data are not those that {run} was started with" in line
    line = undiffuse.rejected("train", "--resume", "--out", run, "--data", some_images(tmp_path / "others", seed=1))
    assert f"data.path: '{data}' -> '{tmp_path / 'others'}'" in line


def test_a_run_is_not_resumed_other_held_out_images(tmp_path: Path, undiffuse: CommandLine) -> None:
    data, run, twin = some_images(tmp_path / "images"), tmp_path / "run", tmp_path / "twin"
    options = ("system.class_conditional=false", "data.size=8", "data.validation_fraction=0.3", "num_images=64")
    undiffuse.fine("train", "ddpm-digits", *TINY, *options, "--data", data, "--out", run, "--stop-after", "0.001s")
    _, held_out = split_data(configure("ddpm-digits", [*TINY, *options], str(data), None, False))
    for seed in range(100):
        other = Image.fromarray(np.random.default_rng(1000 + seed).integers(0, 256, (8, 8), dtype=np.uint8))
        if int.from_bytes(content_hash(other)[:8], "big") < 0.3 * 2**64:
            break
    shutil.copytree(data, twin)
    other.save(twin / Path(held_out.item_name(0)).name)
    line = undiffuse.rejected("train", "--resume", "--out", run, "--data", twin)
    assert f"the held-out data are not those that {run} was started with" in line
    with pytest.raises(UsageError, match="is other data than this model was trained on"):
        own_data(load(run, "cpu"), str(twin))


@pytest.mark.parametrize("folder", ["checkpoints", "snapshots", "previews", "tensorboard"])
def test_a_run_whose_folders_lead_elsewhere_is_not_written_to(
    folder: str, trained: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(trained, run)
    shutil.copytree(trained / "checkpoints", elsewhere)
    shutil.rmtree(run / folder, ignore_errors=True)
    (run / folder).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    assert f"{run / folder} is a link to {elsewhere}" in undiffuse.rejected("train", "--resume", "--out", run)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_several_processes_are_rejected(
    name: str, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    assert f"{name}=1" in undiffuse.rejected("train", "ddpm-digits", *TINY, "--out", tmp_path / "run")
