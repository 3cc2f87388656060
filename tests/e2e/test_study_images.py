"""Studies of images on the command line: what is written, and what is refused with one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine

import undiffuse as package
from undiffuse.studies import MODEL_STUDIES, RENAMED_STUDIES
from undiffuse.studies.plots import plot_style

#: Options that make each study quick, and the images it writes.
QUICK = {
    "forward": (["num=8", "rows=1"], ["forward.png"]),
    "denoising-trajectory": (["num=2", "rows=1", "steps=3"], ["denoising_trajectory.png"]),
    "shared-latent": (["t=[1,0.5]", "num=2", "siblings=2", "steps=4"], ["shared_latent.png"]),
    "interpolation": (
        ["pairs=1", "frames=3", "levels=0.5", "steps=4", "class_name=3"],
        ["coarse_to_fine.png", "interpolation.png"],
    ),
    "prior-interpolation": (["mix=both", "pairs=2", "frames=3", "steps=2"], ["prior_interpolation.png"]),
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels in the figures."""
    monkeypatch.setattr(plot_style, "DPI", 40)


@pytest.mark.parametrize("name", QUICK)
def test_a_study_writes_images_numbers_and_a_page(
    undiffuse: CommandLine, trained: Path, tmp_path: Path, name: str
) -> None:
    options, files = QUICK[name]
    out = tmp_path / "study"
    shown = undiffuse.fine("study", name, trained, *options, "--out", out, "--seed", 5).out
    study = json.loads((out / "study.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "study.json", "README.md"])
    assert study["study"] == name and study["seed"] == 5 and study["model"]["weights"] == "ema"
    page = (out / "README.md").read_text()
    for file in files:
        assert f"]({file})" in page and study["pictures"][file]["title"] in shown  # data
        assert (out / file).read_bytes().startswith(b"\x89PNG")


def test_from_python_the_same_study_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    options = ["pairs=2", "frames=3", "steps=2"]
    one, other = (
        package.study("prior-interpolation", trained, tmp_path / name, options, device="cpu") for name in ("a", "b")
    )
    assert one == other
    assert (tmp_path / "a/prior_interpolation.png").read_bytes() == (
        tmp_path / "b/prior_interpolation.png"
    ).read_bytes()


def test_what_makes_no_sense_is_rejected(
    undiffuse: CommandLine, trained: Path, trained_points: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "study")

    def rejected(*arguments: object) -> str:
        return undiffuse.rejected("study", *arguments, *out)

    for name in QUICK:
        assert "is for images, this model generates points" in rejected(name, trained_points)
        assert "has no key 'tt'" in rejected(name, trained, "tt=1")
    assert "got 1.5" in rejected("shared-latent", trained, "t=1.5")
    assert "got -0.1" in rejected("interpolation", trained, "t=-0.1")
    assert "'levels.1'" in rejected("interpolation", trained, "levels=[0.5,2]")
    assert "pair=4 is not among pairs=3" in rejected("interpolation", trained, "pairs=3", "pair=4")
    assert "which draws some" in rejected("interpolation", trained, "mode=deterministic", "sampler=ancestral")
    assert "needs a stochastic sampler" in rejected("shared-latent", trained, "sampler=ddim")
    assert "unknown sampler 'hoin'" in rejected("denoising-trajectory", trained, "sampler=hoin")
    assert "unknown class 'x'" in rejected("prior-interpolation", trained, "class_name=x")
    assert "steps of its own" in rejected("forward", trained, "steps=7")
    assert "'cubic'" in rejected("prior-interpolation", trained, "mix=cubic")
    assert "--seed" in rejected("forward", trained, "--seed", "-1")
    assert not (tmp_path / "study").exists()


def test_every_study_of_mine_is_listed(undiffuse: CommandLine) -> None:
    shown = undiffuse.fine("study").out
    assert set(QUICK) <= set(MODEL_STUDIES) and all(name in shown for name in QUICK)


def test_former_names_are_taken_and_report_the_new_one(undiffuse: CommandLine, trained: Path, tmp_path: Path) -> None:
    for old, new in RENAMED_STUDIES.items():
        assert old not in undiffuse.fine("study").out.split() and new in MODEL_STUDIES
    call = undiffuse.fine("study", "progressive", trained, "num=2", "rows=1", "steps=3", "--out", tmp_path / "study")
    assert "'progressive' was renamed to 'denoising-trajectory'" in call.err
    assert (tmp_path / "study" / "denoising_trajectory.png").is_file()
