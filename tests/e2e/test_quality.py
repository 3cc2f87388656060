"""Quality measured while a run is trained: what ``evaluate`` would say, at no cost to the training's own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, assert_same_run, log_rows_of, state_of
from torch import Tensor

from undiffuse.api.configuration.runs import configure
from undiffuse.api.loading import load
from undiffuse.api.training import split_data
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import RunError, UsageError
from undiffuse.evaluation.quality import ImageQuality, PointQuality, quality_measure
from undiffuse.experiments.parameterization import _image_quality
from undiffuse.metrics import load_features
from undiffuse.metrics.kernel import kernel_distance
from undiffuse.metrics.set_distance import KernelSetDistance
from undiffuse.metrics.sliced import sliced_wasserstein
from undiffuse.observer import Silent, observing
from undiffuse.training.quality import draw_samples
from undiffuse.training.trainer import Trainer

MEASURED = ("quality_every_images=96", "quality_samples=20", "system.sampling.num_steps=2", "validation_images=0")


class Sizes:
    """A measure that costs nothing: how many samples came, in what chunks, and their sum."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]:
        self.calls += 1
        parts = list(chunks)
        total = int(sum(int(part.long().sum()) for part in parts))
        return {"metric": "sum", "value": total, "samples": sum(map(len, parts))}


def trainer_of(folder: Path, *overrides: str, measure: Any = None) -> Trainer:
    config = configure("ddpm-digits", [*TINY, *overrides], None, None, False)
    return Trainer(config, *split_data(config), folder, measure=measure)


def quality_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in log_rows_of(folder) if row["kind"] == "quality"]


def test_rows_come_when_due_and_change_nothing_else(tmp_path: Path) -> None:
    assert trainer_of(tmp_path / "with", *MEASURED, measure=Sizes()).run()
    assert trainer_of(tmp_path / "without", *MEASURED).run()
    rows = quality_of(tmp_path / "with")
    assert [(row["images"], row["samples"]) for row in rows] == [(96, 20), (192, 20), (256, 20)]
    assert rows[0]["value"] != rows[2]["value"]
    others = [{**row, "row": 0} for row in log_rows_of(tmp_path / "with") if row["kind"] != "quality"]
    assert others == [{**row, "row": 0} for row in log_rows_of(tmp_path / "without")]
    a, b = state_of(tmp_path / "with"), state_of(tmp_path / "without")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_measuring_touches_no_global_random_state(tmp_path: Path) -> None:
    system = trainer_of(tmp_path, *MEASURED).ema.average
    before, python_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = torch.cat(list(draw_samples(system, 20)))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], python_before)  # type: ignore[index]
    assert torch.equal(first[:7], torch.cat(list(draw_samples(system, 7)))) and first.dtype == torch.uint8


class Stops(Sizes):
    """A measure during which the machine dies, the second time."""

    def __call__(self, chunks: Iterable[Tensor]) -> dict[str, Any]:
        if self.calls == 1:
            raise KeyboardInterrupt
        return super().__call__(chunks)


def test_a_run_that_died_between_checkpoint_and_measurement_ends_as_one_that_did_not(tmp_path: Path) -> None:
    assert trainer_of(tmp_path / "whole", *MEASURED, measure=Sizes()).run()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "parts", *MEASURED, measure=Stops()).run()
    assert [row["images"] for row in quality_of(tmp_path / "parts")] == [96]
    again = trainer_of(tmp_path / "parts", *MEASURED, measure=Sizes())
    assert again.resume() and again.images == 192
    assert again.run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    finished = trainer_of(tmp_path / "parts", *MEASURED, measure=Stops())
    assert finished.resume() and finished.run()  # nothing is left to measure
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_samples_that_break_down_leave_a_note_and_no_row(tmp_path: Path) -> None:
    class Received(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def message(self, text: str) -> None:
            self.lines.append(text)

    def broken(chunks: Iterable[Tensor]) -> dict[str, Any]:
        raise RunError("3 of 20 samples are not finite")

    trainer = trainer_of(tmp_path, *MEASURED, measure=broken)
    trainer.observer = received = Received()
    assert trainer.run()
    assert quality_of(tmp_path) == [] and len(received.lines) == 3
    assert "96 images was not measured: 3 of 20" in received.lines[0]


def test_the_last_row_is_what_evaluate_reports(tmp_path: Path, undiffuse: CommandLine) -> None:
    """The same seeds, the same real images, the same features: the same distance."""
    out = tmp_path / "run"
    options = (*MEASURED, "quality_samples=120", "quality_every_images=1000")
    shown = undiffuse.fine("train", "ddpm-digits", *TINY, *options, "--out", out).out
    (row,) = quality_of(out)
    assert row["images"] == 256 and row["samples"] == 120 and row["reference"] == 1596
    undiffuse.fine("evaluate", out, "--metrics", "frechet", "--num", "120")
    (result,) = json.loads((out / "evaluation.json").read_text())["results"]
    assert row["metric"] == result["metric"] == "frechet_handwriting"
    assert row["value"] == pytest.approx(result["value"], rel=1e-6)
    assert row["standard_error"] == pytest.approx(result["uncertainty"], rel=0.5)
    samples = load(out, "cpu").sample(120).double()
    assert row["mean"] == pytest.approx([float(samples.mean())])
    assert row["contrast"] == pytest.approx(float(samples.std(correction=0)))
    assert "images/s" in shown


def test_too_little_is_rejected_before_training(tmp_path: Path, undiffuse: CommandLine) -> None:
    line = undiffuse.rejected(
        "train", "ddpm-digits", *TINY, "quality_every_images=64", "quality_samples=9", "--out", tmp_path / "run"
    )
    assert "quality_samples=9" in line and "at least 10" in line and "quality_every_images=0" in line
    assert not (tmp_path / "run").exists()


class Notes(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize(("count", "metric", "notes"), [(97, "frechet", 0), (96, "kernel", 1)])
def test_the_kernel_distance_is_measured_where_images_are_few(count: int, metric: str, notes: int) -> None:
    """The classifier of digits has 96 features, so a Fréchet distance needs 97 images."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (400, 1, 8, 8), dtype=np.uint8)
    data = ArrayDataset("digits", array, hashes=[bytes([k % 256, k // 256]) * 8 for k in range(400)])
    model: Any = SimpleNamespace(module=SimpleNamespace(shape=data.shape), origin="digits")
    seen = Notes()
    with observing(seen):
        measure = quality_measure(model, data, count, "handwriting")
    assert isinstance(measure, ImageQuality) and measure.distance.name == metric and len(seen.texts) == notes
    assert measure([torch.from_numpy(array[:count])])["metric"] == f"{metric}_handwriting"
    with observing(Silent()), pytest.raises(UsageError, match="at least 97"):
        quality_measure(model, data, 96, "handwriting", "frechet")


def test_the_study_of_parameterizations_measures_few_images_by_the_kernel_distance() -> None:
    config = configure("ddpm-digits", [], None, None, False)
    with observing(Silent()):
        assert _image_quality(config, 500) == ("frechet", "Fréchet distance")
        assert _image_quality(config, 60) == ("kernel", "kernel distance")


def test_other_data_is_measured_only_on_request(tmp_path: Path) -> None:
    assert configure("ddpm-digits", [], None, None, False).quality_every_images > 0
    assert configure("ddpm-digits", [], "digits", None, False).quality_every_images == 0
    assert configure("ddpm-digits", ["quality_every_images=7"], "digits", None, False).quality_every_images == 7


def test_images_of_the_data_itself_have_its_colour_and_hardly_any_distance() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (400, 3, 3, 2), dtype=np.uint8)
    array[:, 1] //= 2
    data = ArrayDataset("made", array, hashes=[bytes([k % 256, k // 256]) * 8 for k in range(400)])
    measure = ImageQuality(load_features("pixels"), data, 200)
    same = measure([torch.from_numpy(array[:150]), torch.from_numpy(array[150:])])
    assert same["value"] == pytest.approx(0, abs=1e-6) and same["metric"] == "frechet_pixels"
    assert same["mean"] == pytest.approx(array.mean((0, 2, 3)).tolist()) == same["data_mean"]
    assert same["contrast"] == pytest.approx(array.std()) == same["data_contrast"]
    brighter = measure([torch.from_numpy(array // 2 + 100)])
    assert brighter["value"] > 0.5 and brighter["mean"][1] > same["mean"][1]
    with pytest.raises(UsageError, match="at least 20"):
        ImageQuality(load_features("pixels"), data, 19)
    few = ImageQuality(load_features("pixels"), data, 12, KernelSetDistance())([torch.from_numpy(array[:12])])
    pixels = torch.from_numpy(array).flatten(1).float() / 255
    assert few["value"] == kernel_distance(pixels[:12], pixels).value and few["metric"] == "kernel_pixels"
    assert (few["samples"], few["reference"]) == (12, 400)


def test_points_are_measured_by_the_sliced_wasserstein_distance() -> None:
    points = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    data = ArrayDataset("made", points, hashes=[bytes([k % 256, k // 256]) * 8 for k in range(300)])
    measure = PointQuality(data, 300)
    shifted = torch.from_numpy(points + np.float32([3, 0]))
    row = measure([shifted[:100], shifted[100:]])
    assert row["value"] == pytest.approx(sliced_wasserstein(shifted, torch.from_numpy(points)))
    assert row["value"] == pytest.approx(2 * 3 / np.pi, rel=0.02)
    assert row["mean"][0] - row["data_mean"][0] == pytest.approx(3, abs=1e-5)
    assert row["metric"] == "sliced_wasserstein" and row["standard_error"] > 0


def test_a_model_of_points_gets_the_measure_of_points(trained_points: Path) -> None:
    model = load(trained_points, "cpu")
    points = np.zeros((50, 2), dtype=np.float32)
    data = ArrayDataset("made", points, hashes=[bytes([k]) * 16 for k in range(50)])
    assert isinstance(quality_measure(model, data, 50), PointQuality)
