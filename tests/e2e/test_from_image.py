"""Sampling from images: files as people have them, arrays and Pillow images as programs do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from undiffuse.cli.main import main
from undiffuse.errors import UsageError
from undiffuse.models.saved import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return undiffuse.load("mnist-1step")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit's like in colour and larger, one in a palette, and a folder of two."""
    folder = tmp_path_factory.mktemp("mine") / "my photos"
    folder.mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "one.png")
    Image.fromarray(levels[::-1].copy()).quantize(7).save(folder / "two.png")
    return folder


def drawn(*words: str | Path) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(SystemExit) as stopped:
        main(["sample", "mnist-1step", *map(str, words)])
    assert not stopped.value.code


@pytest.mark.parametrize("source", ["one.png", "two.png", "."])
def test_a_file_or_a_folder_is_brought_to_the_model_s_size(images: Path, source: str, tmp_path: Path) -> None:
    drawn("-n", 3, "--steps", 4, "--image", images / source, "--strength", 0.5, "--out", tmp_path / "made")
    record = json.loads((tmp_path / "made" / "samples.json").read_text())
    assert record["strength"] == 0.5 and record["nfe"] == 2
    assert set(record["image"]) == {"source", "sha256" if source != "." else "data_fingerprint"}


def test_strength_0_gives_the_image_back(images: Path, tmp_path: Path) -> None:
    drawn("-n", 1, "--image", images / "one.png", "--strength", 0, "--progressive", "--out", tmp_path / "made")
    with Image.open(images / "one.png") as image:
        middle = image.convert("RGB").crop((10, 0, 50, 40)).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    created = np.asarray(Image.open(tmp_path / "made" / "000000.png"), dtype=int)
    off = np.abs(created - np.asarray(middle, dtype=int))  # by another order of cropping and greying
    assert off.mean() < 2 and off.max() < 25


def test_python_takes_tensors_arrays_and_pillow_images(model: Model) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    given = [
        torch.from_numpy(levels[None]),
        levels[None],
        Image.fromarray(levels),
        Image.fromarray(levels).convert("P"),
    ]
    created = [torch.as_tensor(model.sample(1, image=one, steps=4, strength=0.5)) for one in given]
    assert all(torch.equal(one, created[0]) for one in created)
    both = model.sample(4, image=[given[0], 255 - given[0]], steps=4, strength=0.5)
    assert torch.equal(torch.as_tensor(both)[0], created[0][0]) and len(both.record["image"]["sha256"]) == 64
    assert torch.equal(torch.as_tensor(model.sample(1, image=given[0], strength=0.0)), given[0][None])


@pytest.mark.parametrize(
    ("image", "said", "message"),
    [
        (np.zeros((1, 20, 28), np.uint8), {"strength": 0.5}, r"must be uint8 \(1, 28, 28\), got uint8 \(1, 20, 28\)"),
        (np.zeros((1, 28, 28), np.float32), {"strength": 0.5}, "got float32"),
        (np.zeros((1, 28, 28), np.uint8), {}, "needs a strength"),
        ([], {"strength": 0.5}, "no initial image"),
        (None, {"strength": 0.5}, "there is none"),
    ],
)
def test_what_cannot_be_started_from_is_rejected(
    model: Model, image: object, said: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.sample(1, image=image, **said)


@pytest.mark.parametrize(
    "words", [["--strength", "0.5"], ["--image", "."], ["--image", "nowhere", "--strength", "0.5"]]
)
def test_a_line_reports_both_or_neither(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "mnist-1step", *words])
    assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_channels_may_come_last_and_a_folder_may_hold_what_cannot_be_read(
    model: Model, images: Path, tmp_path: Path
) -> None:
    levels = np.random.default_rng(2).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    created = [
        model.sample(1, image=one, steps=2, strength=0.5) for one in (levels, levels[..., 0], levels[None, ..., 0])
    ]
    assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(created[0])) for one in created)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "good.png").write_bytes((images / "one.png").read_bytes())
    (tmp_path / "some" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    main_words = ["-n", 1, "--steps", 2, "--image", tmp_path / "some", "--strength", 0.5, "--out", tmp_path / "made"]
    drawn(*main_words)


@pytest.mark.parametrize(("name", "said"), [("nope.jpg", "no image"), ("bad.jpg", "bad.jpg")])
def test_a_file_that_is_not_there_or_no_image_is_named(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "mnist-1step", "--image", str(tmp_path / name), "--strength", "0.5"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and "IDX" not in error and "known:" not in error


@pytest.mark.parametrize(
    "requested", [{"num": 2.5}, {"num": "3"}, {"num": True}, {"seed": None}, {"seed": 1.0}, {"batch_size": 2.5}]
)
def test_what_is_no_whole_number_is_one_line(model: Model, requested: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="must be a whole number, got"):
        model.sample(**requested)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at most 1,000,000 samples"):
        model.sample(10**12)
    with pytest.raises(UsageError, match="named by a folder or a bundled name, got 3"):
        undiffuse.load(3)  # type: ignore[arg-type]
