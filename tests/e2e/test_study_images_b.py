"""``undiffuse study`` of trained models next to their data, one class against several, and classes of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine

from undiffuse.data import DigitsConfig, load_dataset
from undiffuse.data.config import SwissrollConfig
from undiffuse.data.dataset import select_classes
from undiffuse.errors import RunError, UsageError
from undiffuse.experiments import one_class, trainings
from undiffuse.studies import MODEL_STUDIES
from undiffuse.studies.ablations.one_class import TRAININGS
from undiffuse.studies.plots import plot_style

QUICK = {
    "noise-prediction": ("num=1", "moments=2", "levels=2", "curve_images=4"),
    "noise-levels": ("num=4", "levels=3", "error=own"),
    "neighbours": ("num=6", "shown=2", "k=2", "features=pixels", "real=20"),
    "selection": ("num=6", "k=2", "distance=pixels", "real=20"),
    "sweep": ("samplers=ddim,ancestral:variance=learned", "steps=1,2", "num=65", "features=pixels", "reference=100"),
}
FIGURES = {
    "noise-prediction": ["noise_moments.png", "noise_prediction.png"],
    "noise-levels": ["noise_levels.png"],
    "neighbours": ["neighbours_crop.png", "neighbours_features.png", "neighbours_pixels.png"],
    "selection": ["selection.png"],
    "sweep": ["sweep.png", "sweep_samples.png"],
}
ONE_CLASS = ("study", "one-class", "system.network.channels=8", "system.sampling.num_steps=2")
BUDGET = ("--data", "digits", "--classes", "3", "--images", 32, "--num", 66, "--features", "pixels")


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels."""
    monkeypatch.setattr(plot_style, "DPI", 40)


@pytest.mark.parametrize("name", QUICK)
def test_a_study_writes_its_figures(undiffuse: CommandLine, trained: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "study"
    undiffuse.fine("study", name, trained, *QUICK[name], "--out", out, "--seed", 3)
    study = json.loads((out / "study.json").read_text())
    assert sorted(path.name for path in out.glob("*.png")) == sorted(study["pictures"]) == FIGURES[name]  # data
    assert study["seed"] == 3 and study["summary"] == MODEL_STUDIES[name].summary
    page = (out / "README.md").read_text()
    assert all(f"]({file})" in page for file in FIGURES[name])


def test_the_sweep_reports_why_a_cell_did_not_run(undiffuse: CommandLine, trained: Path, tmp_path: Path) -> None:
    undiffuse.fine("study", "sweep", trained, *QUICK["sweep"], "--out", tmp_path)
    numbers = json.loads((tmp_path / "study.json").read_text())["pictures"]["sweep.png"]  # data
    done = [cell for cell in numbers["cells"] if not cell["note"]]
    assert [(cell["sampler"], cell["steps"], cell["nfe"]) for cell in done] == [("ddim", 1, 1), ("ddim", 2, 2)]
    assert all(cell["frechet"] > 0 and cell["standard_error"] > 0 and cell["seconds"] > 0 for cell in done)
    assert all(0 < cell["processor_seconds"] < 10 * cell["seconds"] for cell in done)
    assert all("learned variance" in cell["note"] for cell in numbers["cells"] if cell not in done)
    assert "did not run" in (tmp_path / "README.md").read_text()


def test_few_samples_are_swept_by_the_kernel_distance(undiffuse: CommandLine, trained: Path, tmp_path: Path) -> None:
    options = ("samplers=ddim", "steps=1", "num=20", "features=pixels", "reference=50", "metric=kernel")
    undiffuse.fine("study", "sweep", trained, *options, "--out", tmp_path)
    numbers = json.loads((tmp_path / "study.json").read_text())["pictures"]["sweep.png"]  # data
    assert numbers["metric"] == "kernel_pixels" and numbers["cells"][0]["kernel"] > 0
    assert "frechet" not in numbers["cells"][0]
    page = (tmp_path / "README.md").read_text()
    assert "Kernel distance of 20 samples" in page and "distances alike" not in page  # it has no bias to speak of


def test_what_makes_no_sense_is_rejected(
    undiffuse: CommandLine, trained: Path, trained_points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejected, out = undiffuse.rejected, ("--out", tmp_path / "study")
    assert "theory" in rejected("study", "noise-levels", trained_points, *out)
    assert "did you mean 'samplers'" in rejected("study", "sweep", trained, "sampler=ddim", *out)
    assert "no option 'ets'" in rejected("study", "sweep", trained, "samplers=ddim:ets=1", *out)
    few = rejected("study", "sweep", trained, "num=20", "features=pixels", *out)
    assert "at least 65 images" in few and "or use metric=kernel" in few
    assert "'metric'" in rejected("study", "sweep", trained, "metric=fid", *out)
    only = ("samplers=ancestral:variance=learned", "steps=2", "num=70", "features=pixels")
    assert "no cell could run" in rejected("study", "sweep", trained, *only, *out)
    assert "'crop'" in rejected("study", "neighbours", trained, "crop=0", *out)
    assert "unknown feature extractor" in rejected("study", "neighbours", trained, "features=fid", *out)
    assert "'distance'" in rejected("study", "selection", trained, "distance=ssim", *out)
    monkeypatch.delenv("UNDIFFUSE_WEIGHTS", raising=False)
    missing = rejected("study", "selection", trained, f"weights={tmp_path / 'none.npz'}", *out)
    assert "none.npz" in missing and "distance=features" in missing
    assert not (tmp_path / "study").exists()


def test_one_class_against_several(undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "study"
    undiffuse.fine(*ONE_CLASS, *BUDGET, "--out", out)
    study = json.loads((out / "study.json").read_text())
    sets = [(row["trained_on"], row["asked_for"]) for row in study["rows"]]
    assert sets == [
        ("one class", "anything"),
        ("all classes", "anything"),
        ("all classes, conditional", "the class"),
        ("all classes, conditional", "anything"),
        ("real images", "the class"),
        ("real images", "all"),
    ]
    runs = {path.parent.name: json.loads(path.read_text()) for path in (out / "runs").glob("*/config.json")}
    assert runs["one-class"]["config"]["data"]["classes"] == ["3"]
    assert runs["all-classes"]["config"]["data"]["classes"] == []
    assert [runs[name]["model"]["class_names"] for name in ("one-class", "all-classes")] == [["3"], list("0123456789")]
    assert runs["all-classes-conditional"]["config"]["system"]["class_conditional"]
    assert study["rows"][0]["class_images"] == 32 and 2 < study["rows"][1]["class_images"] < 5
    # real images of the class lie near the class, those of all near all, and no barely trained model is as near
    rows = dict(zip(sets, study["rows"], strict=True))
    real, mixed = rows["real images", "the class"], rows["real images", "all"]
    assert real["class"]["frechet"] < real["all"]["frechet"] and mixed["all"]["frechet"] < mixed["class"]["frechet"]
    assert min(row["class"]["frechet"] for row in study["rows"][:4]) > real["class"]["frechet"]
    assert (out / "samples.png").is_file() and "| real images | the class |" in (out / "table.md").read_text()


def test_the_study_goes_on_where_it_was(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    original = one_class.measure

    def count_noun(*arguments: Any) -> dict[str, Any]:
        measured.append(1)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(one_class, "measure", count_noun)
    out = tmp_path / "study"
    assert undiffuse(*ONE_CLASS, *BUDGET, "--out", out).code == 130
    assert len(list((out / "cells").iterdir())) == 2
    undiffuse.fine(*ONE_CLASS, *BUDGET, "--out", out)
    assert len(measured) == 3 + 2 + 2  # the third set and the fourth, and the two rows of real images
    assert "was started with another" in undiffuse.rejected(*ONE_CLASS, *BUDGET[:-4], "--num", 66, "--images", 16,
        "--features", "pixels", "--out", out)  # fmt: skip


@pytest.mark.parametrize("recipe", ["photos-32", "flow-mnist", "dcgan-mnist"])
def test_one_class_takes_recipes_that_guide_their_samples(recipe: str) -> None:
    base = one_class._configuration(recipe, [], DigitsConfig(), 32, 0)
    reported = one_class._training_config(base, TRAININGS[2], "3")
    assert reported.system.class_conditional  # type: ignore[attr-defined]
    for config in (base, reported):  # a model that knows no classes cannot be guided, and all are drawn alike
        assert getattr(getattr(config.system, "sampling", None), "guidance", 1) == 1


def test_a_training_that_breaks_down_is_a_result(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainings.train_run

    def breaking(config: Any, run: Path, **options: Any) -> bool:
        if run.name == "all-classes":
            raise RunError("the loss is not finite")
        return original(config, run, **options)

    monkeypatch.setattr(trainings, "train_run", breaking)
    undiffuse.fine(*ONE_CLASS, *BUDGET, "--out", tmp_path / "study")
    rows = json.loads((tmp_path / "study" / "study.json").read_text())["rows"]
    assert [bool(row.get("failed")) for row in rows] == [False, True, False, False, False, False]


def test_what_one_class_rejects(undiffuse: CommandLine, tmp_path: Path) -> None:
    def rejected(*arguments: object) -> str:
        return undiffuse.rejected("study", "one-class", "--out", tmp_path / "study", *arguments)

    assert "points" in rejected("--data", "swissroll")
    assert "no class '11'; " in rejected("--data", "digits", "--classes", "11")
    assert "--num 8" in rejected("--data", "digits", "--num", 500)
    few = rejected("--data", "digits", "--num", 80)
    assert "at least 97 images" in few and "or use --metric kernel" in few
    assert "unknown distance 'kernl'; did you mean 'kernel'" in rejected("--data", "digits", "--metric", "kernl")
    assert "--images must be at least 1" in rejected("--data", "digits", "--images", 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "something other" in undiffuse.rejected(
        "study", "one-class", "--data", "digits", "--out", tmp_path / "other"
    )


def test_a_data_set_of_some_classes() -> None:
    whole = load_dataset(DigitsConfig())
    some = load_dataset(DigitsConfig(classes=("7", "2")))
    assert some.class_names == ("2", "7")  # the set's own order
    assert whole.labels is not None and some.labels is not None
    kept = [number for number, label in enumerate(whole.labels) if label in (2, 7)]
    assert [(2, 7)[label] for label in some.labels] == [whole.labels[number] for number in kept]
    assert (some.fetch(range(len(some))).items == whole.fetch(kept).items).all()
    assert list(map(bytes, some.hashes())) == [bytes(whole.hashes()[number]) for number in kept]
    prints = {load_dataset(DigitsConfig(classes=names)).fingerprint for names in [(), ("2",), ("7",), ("2", "7")]}
    assert len(prints) == 4
    assert some.fetch([0]).given.label is not None


@pytest.mark.parametrize(
    ("written", "read"), [("3,5", ("3", "5")), (7, ("7",)), (["a b"], ("a b",)), ("", ()), ([3], ("3",))]
)
def test_classes_are_written_in_several_ways(written: Any, read: tuple[str, ...]) -> None:
    assert DigitsConfig.model_validate({"classes": written}).classes == read


def test_classes_that_are_not_there_are_rejected(undiffuse: CommandLine, tmp_path: Path) -> None:
    def rejected(text: str) -> str:
        return undiffuse.rejected("train", "ddpm-digits", text, "--out", tmp_path / "run")

    assert "no class '12'; " in rejected("data.classes=3,12")
    assert "named twice" in rejected("data.classes=3,3")
    assert "expected names of classes" in rejected("data.classes=true")
    with pytest.raises(UsageError, match="has no classes"):
        select_classes(load_dataset(SwissrollConfig(num_points=5)), ["1"])
