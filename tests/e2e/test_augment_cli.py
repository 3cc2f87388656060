"""Augmentation from the command line: trained with, shown on a sheet and in the report, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from command_line import TINY, CommandLine
from PIL import Image


def test_a_sheet_of_an_augmentation(tmp_path: Path, undiffuse: CommandLine) -> None:
    outcome = undiffuse.fine("data", "info", "digits", "--augment", "karras", "--grid", tmp_path / "sheet.png")
    assert "as it is, flip, flip_vertical, scale, rotate" in " ".join(outcome.out.split())
    with Image.open(tmp_path / "sheet.png") as image:
        levels = np.asarray(image)
    assert levels.shape == (6 * (64 + 2) + 2, 12 * (64 + 2) + 2)
    undiffuse.fine("data", "info", "digits", "--grid", tmp_path / "plain.png")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "sheet.png").read_bytes()


def test_what_the_sheet_rejects(tmp_path: Path, undiffuse: CommandLine) -> None:
    assert "add --grid FILE" in undiffuse.rejected("data", "info", "digits", "--augment", "karras")
    option = ("--grid", tmp_path / "sheet.png")
    assert "did you mean 'karras'" in undiffuse.rejected("data", "info", "digits", "--augment", "karas", *option)
    assert "shape (2,)" in undiffuse.rejected("data", "info", "swissroll", "--augment", "karras", *option)
    assert list(tmp_path.iterdir()) == []


def test_training_on_points_or_with_two_mirrors_is_rejected(tmp_path: Path, undiffuse: CommandLine) -> None:
    out = ("--out", tmp_path / "run")
    assert "augment=none" in undiffuse.rejected("train", "flow-swissroll", "augment=karras", *out)
    line = undiffuse.rejected("train", "ddpm-digits", "random_flip=true", "augment.flip=0.5", *out)
    assert "random_flip=false" in line


def test_an_augmented_run_reports_what_grey_images_go_without_and_shows_the_rest(
    tmp_path: Path, undiffuse: CommandLine
) -> None:
    out = tmp_path / "run"
    options = ("system.sampling.num_steps=2", "augment=document", "augment.hue=0.5", "augment.tilt_degrees=10")
    outcome = undiffuse.fine("train", "ddpm-digits", *TINY, *options, "--out", out)
    message = " ".join((outcome.out + outcome.err).split())
    assert "colour, hue, saturation left out, the images are grey" in message
    labels = json.loads((out / "config.json").read_text())["model"]["augment_labels"]
    assert {"flip", "tilt 2", "cutout 3"} < set(labels) and not [name for name in labels if name.startswith("hue")]
    undiffuse.fine("sample", out, "-n", 2, "--out", tmp_path / "samples")
    undiffuse.fine("report", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="augmentation"' in page and "all together (5 times)" in page
