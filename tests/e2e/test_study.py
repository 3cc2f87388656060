"""``undiffuse study``: what is written, what is refused, and a table that goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine

from undiffuse.errors import RunError
from undiffuse.experiments import parameterization, trainings
from undiffuse.studies import STUDIES
from undiffuse.studies.ablations.parameterization import Cell
from undiffuse.studies.theory import study as theory_study

ALL = dict(theory_study.FIGURES)
QUICK = ("forward", "scores", "fisher", "low_density", "filmstrip", "samplers")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels, points, samplers and steps."""
    monkeypatch.setattr(theory_study, "FIGURES", {name: theory_study.FIGURES[name] for name in QUICK})
    for name, value in {"scores._PIXELS": 12, "scores._LEVELS": 3, "scores._POINTS": 40, "likelihood._SIDE": 4}.items():
        monkeypatch.setattr(f"undiffuse.studies.theory.{name}", value)
    monkeypatch.setattr("undiffuse.studies.theory.likelihood._POINTS", 10)
    monkeypatch.setattr("undiffuse.studies.theory.trajectories._SHOWN", 50)
    monkeypatch.setattr("undiffuse.studies.theory.trajectories.STEPS", (2, 3))
    monkeypatch.setattr("undiffuse.studies.theory.trajectories.SAMPLERS", {"heun": "", "ancestral": ""})
    monkeypatch.setattr("undiffuse.studies.theory.trajectories._MOMENTS", 3)
    monkeypatch.setattr("undiffuse.studies.plots.plot_style.DPI", 40)


def test_the_studies_are_listed(undiffuse: CommandLine) -> None:
    shown = undiffuse.fine("study").out
    assert all(name in shown for name in STUDIES)


@pytest.mark.usefixtures("quick")
def test_a_trained_model_against_the_truth(undiffuse: CommandLine, trained_points: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shown = undiffuse.fine("study", "theory", trained_points, "--out", out, "--num", 60).out
    study = json.loads((out / "study.json").read_text())
    page = (out / "README.md").read_text()
    assert sorted(path.name for path in out.glob("*.png")) == sorted(study["pictures"])  # data
    assert len(study["pictures"]) == len(QUICK)  # data
    for name, image in study["pictures"].items():  # data
        assert f"]({name})" in page and image["title"] in page
    rows = study["pictures"]["samplers.png"]["rows"]  # data
    assert [(row["sampler"], row["steps"]) for row in rows] == [
        ("heun", 2),
        ("heun", 3),
        ("ancestral", 2),
        ("ancestral", 3),
    ]
    assert all(level["fisher"] > 0 for level in study["pictures"]["fisher.png"]["levels"])  # data
    assert study["exact"] is False and study["model"]["weights"] == "ema"
    assert "Fisher divergence" in shown


@pytest.mark.usefixtures("quick")
def test_an_exact_denoiser_shows_no_errors(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("scores", "fisher", "low_density", "samplers", "likelihood")
    monkeypatch.setattr(theory_study, "FIGURES", {name: ALL[name] for name in names})
    arguments = ("study", "theory", "exact:gaussians", "--process", "ve:sigma_max=10", "--out", tmp_path, "--num", 60)
    assert "KL" in undiffuse.fine(*arguments).out
    undiffuse.fine(*arguments)  # a study replaces a study
    study = json.loads((tmp_path / "study.json").read_text())
    assert study["exact"] is True and study["process"] == "ve:sigma_max=10"
    assert not {"fisher.png", "low_density.png"} & set(study["pictures"])  # data


def test_what_makes_no_sense_is_rejected(
    undiffuse: CommandLine, trained: Path, trained_points: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    rejected = undiffuse.rejected
    assert "points in the plane" in rejected("study", "theory", trained)
    assert "did you mean 'gaussians'" in rejected("study", "theory", "exact:gausians")
    assert "--process is for exact" in rejected("study", "theory", trained_points, "--process", "ve")
    assert "unknown process 'vee'" in rejected("study", "theory", "exact:rings", "--process", "vee")
    assert "--num must be at least 50" in rejected("study", "theory", trained_points, "--num", 3)
    assert "holds something other" in rejected("study", "theory", trained_points, "--out", tmp_path)
    assert "is a file" in rejected("study", "theory", trained_points, "--out", tmp_path / "notes.txt")
    assert "holds something other" in rejected("study", "parameterization", "--out", tmp_path)
    assert "--images must be at least 1" in rejected("study", "parameterization", "--images", 0)
    assert "'theorie'" in rejected("study", "theorie")


def test_a_table_goes_on_and_reports_what_broke(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [Cell("eps", "simple", "beta"), Cell("eps", "simple", "beta_tilde"), Cell("x0", "variational", "beta")]
    monkeypatch.setattr(parameterization, "cells", lambda: chosen)
    monkeypatch.setattr(parameterization, "NUM_STEPS", 8)
    monkeypatch.setattr(parameterization, "SCHEDULE", {"beta_start": 0.01, "beta_end": 0.6})
    whole, trained = trainings.train_run, []

    def train(config, out, **options):  # type: ignore[no-untyped-def]
        trained.append(out.name)
        if config.system.parameterization == "x0" and len(trained) < 4:
            raise RunError("the loss is not finite")
        return whole(config, out, **options)

    monkeypatch.setattr(trainings, "train_run", train)
    arguments = ("study", "parameterization", "--data", "rings", "--out", tmp_path, "--images", 2_000, "--num", 40)
    assert "failed: the loss is not finite" in undiffuse.fine(*arguments).err
    study = json.loads((tmp_path / "study.json").read_text())
    simple, tilde, broken = study["cells"]
    assert simple["training"] == tilde["training"] == "eps-simple"
    assert simple["bound"]["value"] != tilde["bound"]["value"] and simple["quality"]["value"] > 0
    assert broken["quality"] is None and "not finite" in broken["failed"]
    assert "| x0 | variational | beta | failed" in (tmp_path / "table.md").read_text()

    config = json.loads((tmp_path / "runs" / "eps-simple" / "config.json").read_text())["config"]
    assert config["system"]["weighting"] == {"name": "simple"} and config["num_images"] == 2_000

    trained.clear()
    trained += ["", "", ""]
    undiffuse.fine(*arguments)
    assert trained[3:] == ["x0-variational-beta"]  # the others are not even looked at
    again = json.loads((tmp_path / "study.json").read_text())["cells"]
    assert again[:2] == study["cells"][:2] and again[2]["bound"]["value"] > 0
    assert "another configuration" in undiffuse.rejected(*arguments[:-3], 3_000, "--num", 40)
