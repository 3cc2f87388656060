"""Bundled models on the command line: without data, without network, from any folder."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from safetensors import safe_open

import undiffuse as package
from undiffuse.api import bundled_grid, training
from undiffuse.api.loading import find_model, results_folder
from undiffuse.cli import demo
from undiffuse.errors import StoppedError, UsageError
from undiffuse.models import saved
from undiffuse.models.files import int8, weights
from undiffuse.zoo import bundled_models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sampling_works_right_after_installation(undiffuse: CommandLine, elsewhere: Path) -> None:
    undiffuse.fine("sample", "mnist", "-n", 3, "--steps", 2)
    out = elsewhere / "samples" / "mnist-001"
    rows = json.loads((out / "samples.json").read_text())["images"]
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert {row["model"] for row in rows} == {"mnist"}
    undiffuse.fine("sample", "mnist", "-n", 1, "--steps", 1, "--class", 7)
    assert (elsewhere / "samples" / "mnist-002" / "000000.png").is_file()
    printed = undiffuse.rejected("sample", "mnist", "-n", 1, "--class", "seven")
    assert "unknown class 'seven'" in printed


def test_the_python_twin() -> None:
    model = package.load("mnist", "cpu")
    assert model.sample(2, steps=1, class_name="3").shape == (2, 1, 28, 28)
    assert model.path == bundled_models()["mnist"]


def test_a_misspelt_name_and_the_raw_weights_are_rejected(undiffuse: CommandLine) -> None:
    assert "did you mean 'mnist'" in undiffuse.rejected("sample", "mnits")
    assert "--weights ema" in undiffuse.rejected("sample", "mnist", "--weights", "raw")


def test_a_run_of_that_name_comes_first_and_a_folder_of_data_does_not(trained: Path, elsewhere: Path) -> None:
    (elsewhere / "mnist").mkdir()
    assert find_model("mnist") == bundled_models()["mnist"]
    shutil.copy(trained / "config.json", elsewhere / "mnist")
    assert find_model("mnist") == Path("mnist")
    (elsewhere / "empty").mkdir()
    assert find_model("empty") == Path("empty")


def test_models_are_listed(undiffuse: CommandLine) -> None:
    lines = undiffuse.fine("models").out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(bundled_models())
    line = next(line for line in lines if line.startswith("mnist "))
    for fact in ("1×28×28", "10 classes", "NFE", " MB", "Apache-2.0", "data: "):
        assert fact in line
    assert undiffuse.fine("models", "mnist").out.strip() == (
        (bundled_models()["mnist"] / "model_card.md").read_text(encoding="utf-8").strip()
    )
    assert "did you mean 'mnist'" in undiffuse.rejected("models", "mnsit")


def test_models_as_json(undiffuse: CommandLine) -> None:
    rows = json.loads(undiffuse.fine("models", "--json").out)
    assert [row["name"] for row in rows] == list(bundled_models())
    one = json.loads(undiffuse.fine("models", "mnist", "--json").out)
    assert one in rows
    assert one["class_names"] == list("0123456789") and one["card"]["sets"][0]["name"] == "mnist"
    assert str(ROOT) not in json.dumps(rows)


def test_what_needs_the_data_reports_so_and_writes_nothing_into_the_package(undiffuse: CommandLine) -> None:
    assert "data/mnist" in undiffuse.rejected("evaluate", "mnist", "--num", 20)
    folder = bundled_models()["mnist"]
    assert results_folder(folder) == Path("results/mnist")
    assert results_folder(Path("runs/mnist")) == Path("runs/mnist")
    assert len(list(folder.iterdir())) == 4


def test_a_report_is_written_here(undiffuse: CommandLine, elsewhere: Path) -> None:
    before = sorted(bundled_models()["mnist"].iterdir())
    undiffuse.fine("report", "mnist")
    page = (elsewhere / "results" / "mnist" / "report.html").read_text(encoding="utf-8")
    assert "undiffuse sample mnist -n 64" in page and str(ROOT) not in page
    assert sorted(bundled_models()["mnist"].iterdir()) == before


@pytest.mark.parametrize("shown", [("mnist-1step", "mnist-2step"), pytest.param(None, marks=pytest.mark.slow)])
def test_the_demo_shows_them_first(
    shown: tuple[str, ...] | None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a grid with a row a model, two of few steps or all of them; it trains in the same folder, which another with
    anything in it is refused for."""
    seen: list[bool] = []
    found = {name: folder for name, folder in bundled_models().items() if shown is None or name in shown}
    monkeypatch.setattr(bundled_grid, "bundled_models", lambda: found)

    def train(config: Any, out: Path, **options: Any) -> bool:
        training.check_folder(config, out, False)
        seen.append((out / "bundled.png").is_file())
        raise StoppedError("stopped at 16 images with a checkpoint (SIGTERM)", signal.SIGTERM)

    monkeypatch.setattr(demo, "train_run", train)
    with pytest.raises(StoppedError, match="run the same command again to resume"):
        demo.run_demo(elsewhere / "demo", "cpu")
    assert seen == [True]
    check_sheet(elsewhere / "demo" / "bundled.png", len(found))
    (elsewhere / "demo" / "other.png").touch()
    with pytest.raises(UsageError, match="not empty"):
        demo.run_demo(elsewhere / "demo", "cpu")


def check_sheet(path: Path, rows: int) -> None:
    """A row of sixteen samples for each model, its name next to it, dark on white."""
    with Image.open(path) as grid:
        label_width = grid.width - (16 * 97 + 1)
        assert grid.mode == "RGB" and grid.height == rows * 97 + 1 and 60 < label_width < 200
        pixels = np.asarray(grid)
    assert len(np.unique(pixels[:97, label_width:])) > 50
    for row in range(rows):
        label = pixels[row * 97 : (row + 1) * 97, :label_width]
        assert label[:25].min() == 255 and label[30:70].min() < 60


def test_weights_of_any_precision_are_read_into_float32(trained: Path, elsewhere: Path) -> None:
    original = saved.load(trained)
    folder = elsewhere / "half"
    folder.mkdir()
    shutil.copy(trained / "config.json", folder)
    tensors = {key: value.bfloat16() for key, value in original.module.state_dict().items()}
    weights.save_weights(folder / "model.safetensors", tensors)
    for key, value in saved.load(folder).module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[key].float())


def requested(run: Path, **options: Any) -> argparse.Namespace:
    given: dict[str, Any] = {"run": run, "name": "tiny", "title": "digits", "sets": ["mnist"], "command": "train it"}
    given |= {"images": None, "terms": "None.", "licence": "MIT", "data_path": None, "num": 0, "features": "auto"}
    given |= {"sampling": [], "prompt": [], "int8": False}
    return argparse.Namespace(**{**given, "metrics": "precision_recall", **options})


def test_a_run_becomes_a_bundled_model(
    trained: Path, zoo_tool: ModuleType, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, undiffuse: CommandLine
) -> None:
    monkeypatch.setattr(zoo_tool, "FOLDER", elsewhere / "zoo")
    monkeypatch.setattr("undiffuse.zoo.FOLDER", elsewhere / "zoo")
    zoo_tool.make(requested(trained, num=16))
    assert list(bundled_models()) == ["tiny"]
    card = json.loads(undiffuse.fine("models", "tiny", "--json").out)["card"]
    assert card["images"] == 256 and card["licence"] == "MIT"
    precision = card["metrics"][0]
    assert precision["metric"] == "precision" and "16 samples" in precision["protocol"]
    with safe_open(elsewhere / "zoo" / "tiny" / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    a, b = package.load(trained, "cpu").sample(2, steps=3), package.load("tiny", "cpu").sample(2, steps=3)
    assert (a.float() - b.float()).abs().mean() < 3
    again = requested(elsewhere / "zoo" / "tiny", title=None, sets=[], sampling=["num_steps=3", "sampler=euler"])
    zoo_tool.take_from_card(again)
    zoo_tool.make(again)
    printed = json.loads(undiffuse.fine("models", "tiny", "--json").out)["card"]
    assert (printed["steps"], printed["sampler"], printed["title"]) == (3, "euler", "digits")
    assert printed["weights_sha256"] == card["weights_sha256"]  # the weights are the same bytes


def test_a_bundled_model_in_int8_stays_one(
    trained: Path, zoo_tool: ModuleType, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, undiffuse: CommandLine
) -> None:
    """Shown or measured anew it has the same bytes, without being asked again."""
    monkeypatch.setattr(int8, "SMALLEST", 500)
    monkeypatch.setattr(zoo_tool, "FOLDER", elsewhere / "zoo")
    monkeypatch.setattr("undiffuse.zoo.FOLDER", elsewhere / "zoo")
    zoo_tool.make(requested(trained, int8=True))
    first = json.loads(undiffuse.fine("models", "tiny", "--json").out)["card"]
    assert first["stored"] == "int8"
    assert "int8 with a scale per output channel" in (elsewhere / "zoo" / "tiny" / "model_card.md").read_text()
    again = requested(elsewhere / "zoo" / "tiny", title=None, sets=[], sampling=["num_steps=3", "sampler=euler"])
    zoo_tool.take_from_card(again)
    zoo_tool.make(again)
    second = json.loads(undiffuse.fine("models", "tiny", "--json").out)["card"]
    assert (second["stored"], second["weights_sha256"]) == ("int8", first["weights_sha256"])


def test_a_model_that_is_too_large_leaves_nothing(
    trained: Path, zoo_tool: ModuleType, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_tool, "FOLDER", elsewhere / "zoo")
    monkeypatch.setattr("undiffuse.zoo.FOLDER", elsewhere / "zoo")
    monkeypatch.setattr(zoo_tool, "MODEL_BYTES", 1000)
    with pytest.raises(UsageError, match=r"takes .* bytes of 1,000"):
        zoo_tool.make(requested(trained))
    assert list((elsewhere / "zoo").iterdir()) == []
    with pytest.raises(UsageError, match="local paths"):
        zoo_tool.make(requested(trained, command="undiffuse train --data /srv/digits/"))
    assert list((elsewhere / "zoo").iterdir()) == []
