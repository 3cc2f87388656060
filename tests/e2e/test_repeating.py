"""Images are repeated from their own record: bit for bit, or with the given options varied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image

import undiffuse as package
from undiffuse.errors import UsageError
from undiffuse.images import fill_png
from undiffuse.models.sample_sets.image_record import KEY, image_record, texts_of

PIXELS = np.zeros((1, 28, 28), dtype=np.uint8)


def changed(path: Path, **entries: Any) -> Path:
    """A black image with the record of an image of mnist-1step and other entries."""
    sha256 = package.load("mnist-1step").weights_sha256
    row = {"seed": 1, "class": "1", "model": "mnist-1step", "model_sha256": sha256, **entries}
    fill_png(path, PIXELS, texts_of(image_record(row, (28, 28), {})))
    return path


@pytest.mark.parametrize(
    "options",
    [
        ("--class", 3, "--class", 5, "--no-class"),
        ("--sampler", "consistency", "--steps", 3, "--temperature", 0.7),
        ("--sampler", "ancestral", "--steps", 2, "--grid", "karras:rho=5", "--process", "ve"),
        ("--guidance", 2.5, "--guidance-interval=-inf,4"),
    ],
    ids=["classes", "stochastic", "process", "guidance"],
)
def test_each_image_is_repeated_bit_for_bit(
    options: tuple[Any, ...], tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "mnist" if "--guidance" in options else "mnist-1step"
    steps = ("--steps", 2) if model == "mnist" else ()
    undiffuse.fine("sample", model, "-n", 3, "--seed", 9, *options, *steps, "--out", tmp_path / "first")
    (tmp_path / "else where").mkdir()
    moved = tmp_path / "else where" / "renamed ü.png"
    monkeypatch.chdir(tmp_path / "else where")
    for number in range(3):
        moved.write_bytes((tmp_path / "first" / f"00000{number}.png").read_bytes())
        out = undiffuse.fine("sample", "--from", moved.name, "--out", tmp_path / f"again{number}").out
        assert f"equal to {moved.name} bit for bit" in out
        assert (tmp_path / f"again{number}" / "000000.png").read_bytes() == moved.read_bytes()


def test_python_repeats_and_varies(tmp_path: Path) -> None:
    first = package.sample("mnist-1step", 4, seed=20, class_name="6", out=tmp_path / "first")
    one = tmp_path / "first" / "000001.png"
    assert (package.sample(from_image=one) == first[1:2]).all()
    assert (package.sample(package.load("mnist-1step"), from_image=one) == first[1:2]).all()
    more = package.sample(from_image=one, num=3)
    assert (more == first[1:4]).all() and more.seeds == range(21, 24)
    varied = package.sample(from_image=one, seed=20, class_name="2", steps=2)
    assert (varied == package.sample("mnist-1step", 1, seed=20, class_name="2", steps=2)).all()
    assert [varied.record[key] for key in ("steps", "temperature")] == [2, 0.9]


def test_the_averaged_and_the_raw_weights_are_distinguished(
    trained: Path, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("sample", trained, "-n", 1, "--steps", 1)
    undiffuse.fine(*common, "--weights", "raw", "--out", "raw")
    failed = undiffuse.rejected("sample", "--from", "raw/000000.png", "--out", "no")
    assert "neither a bundled model nor a folder here" in failed
    assert "bit for bit" in undiffuse.fine("sample", trained, "--from", "raw/000000.png", "--out", "again").out
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / trained.name).symlink_to(trained)
    assert "bit for bit" in undiffuse.fine("sample", "--from", "raw/000000.png", "--out", "found").out


def test_other_weights_are_used_only_on_request(tmp_path: Path, undiffuse: CommandLine) -> None:
    sha256 = package.load("mnist-1step").weights_sha256
    path = changed(tmp_path / "a.png", model_sha256="ab" * 32)
    message = undiffuse.rejected("sample", "--from", path, "--out", tmp_path / "out")
    assert "abababababab..." in message and sha256[:12] in message and "--allow-other-model" in message
    done = undiffuse.fine("sample", "--from", path, "--allow-other-model", "--out", tmp_path / "out")
    assert "the image will differ" in done.err and "bit for bit" not in done.out
    with pytest.raises(UsageError, match="allow_other_model=True"):
        package.sample(from_image=path)
    with pytest.raises(UsageError, match="from_image"):
        package.sample("mnist-1step", 1, allow_other_model=True)


def test_an_initial_image_has_to_be_given_again(tmp_path: Path, undiffuse: CommandLine) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    for name, shift in (("start.png", 0), ("other.png", 1)):
        Image.fromarray(np.roll(levels, shift)).save(tmp_path / name)
    start = ("--image", tmp_path / "start.png")
    undiffuse.fine("sample", "mnist-1step", "-n", 1, *start, "--strength", 0.5, "--steps", 4, "--out", tmp_path / "a")
    made = tmp_path / "a" / "000000.png"
    assert "image" in package.read_record(made) and b"start.png" not in made.read_bytes()
    assert "give that image with --image" in undiffuse.rejected("sample", "--from", made, "--out", tmp_path / "b")
    assert "bit for bit" in undiffuse.fine("sample", "--from", made, *start, "--out", tmp_path / "b").out
    wrong = undiffuse.fine("sample", "--from", made, "--image", tmp_path / "other.png", "--out", tmp_path / "c")
    assert "is not the one that" in wrong.err and "values differ from" in wrong.err


def test_edited_pixels_and_unknown_entries_are_reported(tmp_path: Path, undiffuse: CommandLine) -> None:
    path = changed(tmp_path / "a.png", later=1)
    notes = undiffuse.fine("sample", "--from", path, "--out", tmp_path / "out").err
    assert "of 784 values differ from" in notes and "edited after it was sampled" in notes
    assert notes.count("ignored unknown entries of its record: later") == 1


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"steps": "many"}, "the record in .* is invalid: steps"),
        ({"guidance_interval": "a"}, "the record in .* is invalid"),
        ({"model": "../secret"}, "is not a model's name"),
        ({"model": "absent"}, "neither a bundled model nor a folder here"),
        ({"sampler": "heunn"}, "heunn"),
        ({"prompt": "a fox"}, "trained without captions, got prompt .a fox."),
        ({"class": "x"}, "unknown class 'x'"),
    ],
)
def test_a_record_that_cannot_be_repeated_writes_nothing(
    entries: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = changed(tmp_path / "a.png", **entries)
    with pytest.raises(UsageError, match=expected):
        package.sample(from_image=path, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_early_errors_have_one_line(tmp_path: Path, undiffuse: CommandLine) -> None:
    undiffuse.fine("sample", "mnist-1step", "-n", 2, "--out", tmp_path / "a")
    assert "is a grid of samples" in undiffuse.rejected("sample", "--from", tmp_path / "a" / "grid.png")
    assert "is a folder" in undiffuse.rejected("sample", "--from", tmp_path / "a")
    assert "no model is given" in undiffuse.rejected("sample")
    Image.open(tmp_path / "a" / "000001.png").save(tmp_path / "sent.png")
    assert "has no record" in undiffuse.rejected("sample", "--from", tmp_path / "sent.png")
    fill_png(tmp_path / "deep.png", PIXELS, {KEY: json.dumps({"format": 1})})
    assert "lacks 'undiffuse'" in undiffuse.rejected("sample", "--from", tmp_path / "deep.png")
