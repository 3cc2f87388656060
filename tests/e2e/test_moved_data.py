"""A model whose training data lies elsewhere now: every command that needs it says so, and takes what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, CommandLine
from PIL import Image

from undiffuse.api.datasets.reference_data import held_out_data
from undiffuse.cli.terminal import Terminal
from undiffuse.models.saved import load
from undiffuse.observer import observing


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(run, where its data lies now, other data of the same shape); the path it was given leads nowhere from here."""
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import train_run

    root = tmp_path_factory.mktemp("moved")
    for name, seed in (("before", 0), ("other", 1)):
        (root / name).mkdir()
        for number, levels in enumerate(np.random.default_rng(seed).integers(0, 256, (60, 8, 8), np.uint8)):
            Image.fromarray(levels).save(root / name / f"{number:02d}.png")
    small = ("num_images=32", "data.validation_fraction=0.3", "system.class_conditional=false")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        config = configure("ddpm-digits", [*TINY, *small], "before", Path("run"), False)
        assert train_run(config, Path("run"), device="cpu")
    shutil.move(root / "before", root / "now")
    return root / "run", root / "now", root / "other"


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "RUN", "--metrics", "kernel", "--features", "pixels", "--num", 10, "--out", "x.json"),
        pytest.param(("study", "neighbours", "RUN", "num=4"), marks=pytest.mark.slow),
        ("distill", "RUN", "--method", "mean_flow", "--dry-run"),
    ],
    ids=["evaluate", "study", "distill"],
)
def test_the_data_is_taken_from_where_it_lies_now(
    command: tuple[object, ...],
    moved: tuple[Path, Path, Path],
    undiffuse: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run, now, other = moved
    call = [run if word == "RUN" else word for word in command]
    line = undiffuse.rejected(*call)
    assert f"no such file or folder: {run.parent / 'before'}; give its location with --data" in line
    undiffuse.fine(*call, "--data", now)
    if command[0] == "study":
        assert "is other data than this model was trained on" in undiffuse.rejected(*call, "--data", other)


def test_an_evaluation_takes_moved_data_for_the_models_own_and_other_data_for_held_out(
    moved: tuple[Path, Path, Path], undiffuse: CommandLine, tmp_path: Path
) -> None:
    run, now, other = moved
    call = ("evaluate", run, "--metrics", "copying", "--features", "pixels", "--num", 10, "--out", tmp_path / "x.json")
    undiffuse.fine(*call, "--data", now)
    trained_on = json.loads((run / "config.json").read_text())["data"]["train"]
    (ratio, *_) = json.loads((tmp_path / "x.json").read_text())["results"]
    assert (ratio["protocol"]["training_images"], ratio["protocol"]["held_out_images"]) == (trained_on, 10)
    line = undiffuse.rejected(*call, "--data", other)
    assert "what the model was trained on" in line and "--metrics vlb" in line


def test_held_out_images_that_were_stored_with_more_than_the_models_own_are_reported(
    moved: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(moved[0], "cpu")
    levels = np.random.default_rng(2).integers(0, 256, (8, 8, 2), np.uint8)
    Image.fromarray(levels, "LA").save(tmp_path / "0.png")
    text = "1 image with transparency, laid on data.background"
    with observing(Terminal()):
        held_out_data(model, str(tmp_path))
    assert capsys.readouterr().err == f"note: {tmp_path}: {text}; what the model was trained on: none\n"
    del model.config["data"]["stored_with"]  # a model of before does not know
    with observing(Terminal()):
        held_out_data(model, str(tmp_path))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_doctor_and_the_report_find_it_too(
    moved: tuple[Path, Path, Path], undiffuse: CommandLine, tmp_path: Path
) -> None:
    run, now, _ = moved
    without = undiffuse.fine("report", run, "--out", tmp_path / "x.html")
    missing = f"no such file or folder: {run.parent / 'before'}"
    assert f"the page shows no real data: {missing}; say where" in without.err
    assert not undiffuse.fine("report", run, "--out", tmp_path / "x.html", "--data", now).err
    records = {}
    for name, data in (("without", ()), ("with", ("--data", now))):
        undiffuse.fine("doctor", run, "--num", 16, "--json", tmp_path / f"{name}.json", *data)
        records[name] = (tmp_path / f"{name}.json").read_text()
    assert missing in records["without"] and "no such file" not in records["with"]


def test_options_without_data_to_apply_to_are_rejected(
    moved: tuple[Path, Path, Path], undiffuse: CommandLine, tmp_path: Path
) -> None:
    run, now, _ = moved
    assert "add --data SRC" in undiffuse.rejected("evaluate", run, "data.on_error=skip")
    assert "leave it out" in undiffuse.rejected("doctor", run, "data.on_error=skip")
    assert "--recipe is for data" in undiffuse.rejected("doctor", run, "--recipe", "flow-mnist")
    assert "--data is for runs" in undiffuse.rejected("doctor", now, "--data", now)
