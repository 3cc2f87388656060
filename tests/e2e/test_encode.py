"""``undiffuse invert``: latents in a file, and the way back next to the originals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image


def encoded(undiffuse: CommandLine, model: Path, source: str, out: Path, *options: object) -> dict:  # type: ignore[type-arg]
    outcome = undiffuse.fine("invert", model, source, "--out", out, "-n", 3, *options)
    record = json.loads((out / "encode.json").read_text())
    assert f"{record['roundtrip_rms']:.2g}" in outcome.out
    return record  # type: ignore[no-any-return]


def test_images_go_there_and_back(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = encoded(undiffuse, trained, "digits", tmp_path / "latents")
    latents = np.load(tmp_path / "latents" / "latents.npy")
    assert latents.shape == (3, 1, 8, 8) and latents.dtype == np.float32
    assert record["roundtrip_rms"] < 0.01
    assert record["latent_mean_square"] == pytest.approx(float((latents.astype(np.float64) ** 2).mean()))
    assert record["solver"] == "rk45" and record["nfe"] > 6 and len(record["items"]) == 3
    assert {"model_sha256", "log_snr_range", "rtol", "data_fingerprint", "labels"} <= record.keys()
    with Image.open(tmp_path / "latents" / "roundtrip.png") as image:
        assert image.width > image.height  # three across, two down


def test_heun_takes_the_steps_it_is_reported(trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "points"
    few = encoded(undiffuse, trained_points, "swissroll", out, "--sampler", "heun", "--steps", 20)
    many = encoded(undiffuse, trained_points, "swissroll", out, "--sampler", "heun", "--steps", 100, "--overwrite")
    assert (few["nfe"], many["nfe"]) == (40, 200)
    assert many["roundtrip_rms"] < few["roundtrip_rms"]
    assert np.load(out / "latents.npy").shape == (3, 2)


def test_what_cannot_be_done_is_rejected(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    def rejected(*options: object, source: str = "digits", out: Path = tmp_path / "x") -> str:
        return undiffuse.rejected("invert", trained, source, "--out", out, *options)

    assert "rk45" in rejected("--sampler", "rk4")
    assert "--steps" in rejected("--steps", 5)
    assert "at least 1" in rejected("-n", 0)
    assert "at least 1" in rejected("--sampler", "heun", "--steps", 0)
    assert "shape" in rejected(source="swissroll")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "thesis.tex" in rejected("--overwrite", out=tmp_path / "mine")
    assert "file" in rejected(out=tmp_path / "mine" / "thesis.tex")
    assert not (tmp_path / "x").exists()


def test_images_of_another_size_are_fitted_to_the_model(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        pixels = np.full((20, 30, 3), 60 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    encoded(undiffuse, trained, str(tmp_path / "pictures"), tmp_path / "out", "--sampler", "heun", "--steps", 2)
    assert np.load(tmp_path / "out" / "latents.npy").shape == (3, 1, 8, 8)
    pixels[..., 2] = 255  # the others were grey, if stored in three channels
    Image.fromarray(pixels).save(tmp_path / "pictures" / "blue.png")
    call = ("invert", trained, tmp_path / "pictures", "--sampler", "heun", "--steps", 2, "--out", tmp_path / "blue")
    assert "set data.channels=1 to compare in grey" in undiffuse.rejected(*call)
    undiffuse.fine(*call, "data.channels=1")
