"""``undiffuse compare``: two sets of images, whatever made them."""

from __future__ import annotations

import gzip
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image

from undiffuse.api.comparing import compare
from undiffuse.data import load_dataset, source_config_for
from undiffuse.errors import UsageError

METRICS = "frechet,kernel,precision_recall,copying"


def write_images(folder: Path, levels: np.ndarray[Any, Any]) -> Path:
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        Image.fromarray(level).save(folder / f"{number:03d}.png")
    return folder


def noise(count: int, seed: int = 0, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (8, 8))), np.uint8)


def measured(undiffuse: CommandLine, out: Path, *arguments: object) -> dict[str, Any]:
    undiffuse.fine("compare", *arguments, "--out", out)
    record: dict[str, Any] = json.loads(out.read_text())
    return record


def values(record: dict[str, Any]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in record["results"]}


def test_digits_against_themselves_and_noise(undiffuse: CommandLine, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "noise", noise(200))
    same = measured(undiffuse, tmp_path / "same.json", "digits", "digits", "--num", 300)
    other = measured(undiffuse, tmp_path / "other.json", folder, "digits", "--num", 300)
    names = {
        *("frechet_handwriting", "kernel_handwriting", "precision", "recall", "density", "coverage"),
        *("score_handwriting", "confident_share", "class_balance", "neighbour_ratio", "neighbour_ratio_features"),
    }
    assert values(same).keys() == values(other).keys() == names
    assert values(same)["frechet_handwriting"] < 1e-6 < 1 < values(other)["frechet_handwriting"]
    assert values(same)["coverage"] == 1 and values(other)["coverage"] < 0.1
    assert values(same)["neighbour_ratio"] == 0 and values(other)["neighbour_ratio"] > 2
    assert {row["details"]["verdict"] for row in same["results"] if "verdict" in row["details"]} == {"likely copies"}


def test_what_every_number_states(undiffuse: CommandLine, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "made", noise(40))
    record = measured(undiffuse, tmp_path / "x.json", folder, "digits", "--metrics", "kernel", "--num", 100)
    (row,) = record["results"]
    stated = row["protocol"]
    assert stated["extractor"] == "handwriting" and len(stated["weights_sha256"]) == 64 and stated["resize"]
    assert (stated["pictures"]["num"], stated["pictures"]["of"]) == (40, 40)
    assert (stated["reference"]["num"], stated["reference"]["of"]) == (100, 1797)
    assert stated["reference"]["data_fingerprint"] == load_dataset(source_config_for("digits")).fingerprint
    assert stated["hardware"] and len(stated["software"]["source_sha256"]) == 64
    assert record["pictures"] == stated["pictures"] and row["cached"] is False


def test_a_second_comparison_is_from_the_cache(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "made", noise(40))
    call = (folder, "digits", "--metrics", "kernel", "--num", 50)
    first, again = (measured(undiffuse, tmp_path / f"{name}.json", *call) for name in "ab")
    assert again["results"] == [{**row, "cached": True} for row in first["results"]]
    Image.fromarray(noise(1, seed=9)[0]).save(folder / "000.png")
    changed = measured(undiffuse, tmp_path / "c.json", *call)
    assert changed["results"][0]["cached"] is False and values(changed) != values(first)
    anew = measured(undiffuse, tmp_path / "d.json", *call, "--no-cache")
    assert anew["results"][0]["cached"] is False and values(anew) == values(changed)


def test_values_by_count(undiffuse: CommandLine, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "made", noise(120))
    call = (folder, "digits", "--features", "pixels", "--metrics", "frechet,kernel", "--counts", "66,80,120")
    record = measured(undiffuse, tmp_path / "x.json", *call)
    assert [part["num"] for part in record["by_count"]] == [66, 80, 120]
    distances = [part["results"][0]["value"] for part in record["by_count"]]
    assert distances[0] > distances[1] > distances[2]  # the bias falls


def test_the_size_and_channels_of_the_reference(undiffuse: CommandLine, tmp_path: Path) -> None:
    large = write_images(tmp_path / "large", noise(20, 0, 12, 12, 3))
    assert "data.channels=1 to compare in grey" in undiffuse.rejected("compare", large, "digits")
    grey = ("--metrics", "kernel", "--num", 20, "data.channels=1")
    record = measured(undiffuse, tmp_path / "x.json", large, "digits", *grey)
    assert "size=8x8" in str(record["pictures"]["options"]) or "size=(8, 8)" in str(record["pictures"]["options"])
    assert "data.channels=3 to repeat" in undiffuse.rejected("compare", "digits", large)
    line = undiffuse.rejected("compare", "digits", large, "--metrics", "kernel", "data.channels=3")
    assert "8x8" in line and "12x12" in line and "--size 8x8" in line
    coloured = ("--metrics", "kernel", "--size", 8, "--num", 20, "data.channels=3")
    both = measured(undiffuse, tmp_path / "y.json", "digits", large, *coloured)
    assert values(both)["kernel_pixels"] > 0


def test_a_coloured_set_is_not_judged_in_grey_unsaid(undiffuse: CommandLine, tmp_path: Path) -> None:
    levels = noise(40, 5)
    red_blue = np.stack([levels, np.zeros_like(levels), 255 - levels], axis=-1)
    colour, grey = write_images(tmp_path / "colour", red_blue), write_images(tmp_path / "grey", noise(40, 6))
    for pair in ((colour, grey), (grey, colour)):
        line = undiffuse.rejected("compare", *pair, "--metrics", "kernel")
        assert f"{colour} is coloured" in line and f"{grey} is grey" in line
    found = {}
    for way in re.findall(r"data\.channels=\d", line):  # what the line says works
        record = measured(
            undiffuse, tmp_path / "x.json", colour, grey, "--metrics", "kernel", "--features", "pixels", way
        )
        assert f"channels={way[-1]}" in record["pictures"]["options"]
        found[way] = values(record)["kernel_pixels"]
    stored = write_images(tmp_path / "stored", np.stack([noise(40, 7)] * 3, axis=-1))  # grey in three channels
    for pair in ((stored, grey), (grey, stored)):
        measured(undiffuse, tmp_path / "x.json", *pair, "--metrics", "kernel", "--features", "pixels")
    assert len(found) == 2 and found["data.channels=3"] != found["data.channels=1"]


def test_images_of_another_size_are_brought_to_one_and_it_is_reported(undiffuse: CommandLine, tmp_path: Path) -> None:
    large, small = write_images(tmp_path / "large", noise(12, 0, 12, 12)), write_images(tmp_path / "s", noise(12))
    message = undiffuse.fine("compare", large, small, "--metrics", "kernel", "--features", "pixels").err
    assert message == f"note: the images of {large} are 12x12 and are resized to the 8x8 of {small}\n"


def test_images_that_were_stored_with_more_on_one_side_alone_are_reported(
    undiffuse: CommandLine, tmp_path: Path
) -> None:
    levels = noise(12)
    opaque, half = np.full_like(levels, 255), np.where(np.arange(8) < 4, 255, 0).astype(np.uint8) + 0 * levels
    folders = {
        "plain": write_images(tmp_path / "plain", levels),
        "opaque": write_images(tmp_path / "opaque", np.stack([levels, opaque], axis=-1)),
        "alpha": write_images(tmp_path / "alpha", np.stack([levels, half], axis=-1)),
        "deep": write_images(tmp_path / "deep", levels.astype(np.uint16) * 257),
    }
    texts = {
        "alpha": "12 images with transparency, laid on data.background",
        "deep": "12 images of more than 8 bits a value, each rounded to 8",
    }
    call = ("--metrics", "kernel", "--features", "pixels")
    for name, text in texts.items():
        line = f"note: {folders[name]}: {text}; {folders['plain']}: none\n"
        assert undiffuse.fine("compare", folders[name], folders["plain"], *call).err == line
        assert undiffuse.fine("compare", folders["plain"], folders[name], *call).err == line
        assert undiffuse.fine("compare", folders[name], folders[name], *call).err == ""
    assert undiffuse.fine("compare", folders["opaque"], folders["plain"], *call).err == ""
    record = measured(undiffuse, tmp_path / "x.json", folders["alpha"], folders["plain"], *call)
    assert record["pictures"]["transparency"] == texts["alpha"] and "transparency" not in record["reference"]


def test_a_broken_image_is_passed_over_as_the_message_reports(undiffuse: CommandLine, tmp_path: Path) -> None:
    clean, broken = write_images(tmp_path / "clean", noise(30, 1)), write_images(tmp_path / "broken", noise(30, 2))
    (broken / "005.png").write_bytes((broken / "005.png").read_bytes()[:60])
    call = ("--metrics", "kernel", "--features", "pixels")
    for pair in ((clean, broken), (broken, clean)):
        line = undiffuse.rejected("compare", *pair, *call)
        (way,) = re.findall(r"data\.\w+=\w+", line)
        record = measured(undiffuse, tmp_path / "x.json", *pair, *call, way)
        assert {record["pictures"]["of"], record["reference"]["of"]} == {29, 30}
    assert "no key 'on_eror'; did you mean 'on_error'" in undiffuse.rejected(
        "compare", clean, broken, "data.on_eror=skip"
    )


def test_the_accuracy_of_labelled_images(undiffuse: CommandLine, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    for number in range(2):
        write_images(classes / str(number), noise(40, number) // 4 + 150 * number)
    (row,) = measured(undiffuse, tmp_path / "x.json", classes, classes, "--metrics", "accuracy")["results"]
    assert row["metric"] == "classification_accuracy" and row["value"] > 0.9 < row["details"]["real_pictures"]
    assert row["protocol"]["tested"] == 40
    flat = write_images(tmp_path / "flat", noise(20))
    assert "folder of its own" in undiffuse.rejected("compare", flat, classes, "--metrics", "accuracy")
    assert "same classes" in undiffuse.rejected("compare", classes, "digits", "--metrics", "accuracy", "--size", 8)


def test_bad_input_is_rejected_in_one_line(undiffuse: CommandLine, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", noise(8))
    out = tmp_path / "x.json"
    call = ("--out", out)
    assert "10" in undiffuse.rejected("compare", few, "digits", "--metrics", "kernel", *call)
    assert "97" in undiffuse.rejected("compare", few, "digits", "--metrics", "frechet", *call)
    assert "frechet" in undiffuse.rejected("compare", few, "digits", "--metrics", "frechett", *call)
    assert "pixels" in undiffuse.rejected("compare", few, "digits", "--features", "pixel", "--metrics", "kernel", *call)
    assert "neither" in undiffuse.rejected("compare", tmp_path / "gone", "digits", *call)
    assert "points" in undiffuse.rejected("compare", "swissroll", "digits", *call)
    assert "points" in undiffuse.rejected("compare", few, "swissroll", *call)
    assert "--counts" in undiffuse.rejected("compare", few, "digits", "--counts", "20,10", *call)
    assert "8 images" in undiffuse.rejected("compare", few, "digits", "--counts", "5,10", *call)
    assert "num" in undiffuse.rejected("compare", few, "digits", "--num", 0, *call)
    assert "--metrics" in undiffuse.rejected("compare", few, "digits", "--metrics", " ", *call)
    assert "size" in undiffuse.rejected("compare", few, "digits", "--size", "huge", *call)
    assert "folder" in undiffuse.rejected("compare", few, "digits", "--out", tmp_path)
    assert not out.exists()


def test_a_run_is_no_set_of_images(trained: Path, undiffuse: CommandLine) -> None:
    """Its previews are grids of images."""
    line = undiffuse.rejected("compare", trained, "digits")
    assert "is a run" in line and "undiffuse evaluate" in line


def test_broken_images_are_named(undiffuse: CommandLine, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "made", noise(12))
    (folder / "005.png").write_bytes((folder / "005.png").read_bytes()[:60])
    assert "005.png" in undiffuse.rejected("compare", folder, "digits")
    nan = tmp_path / "nan"
    nan.mkdir()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(nan / "nan.tiff")
    assert "nan.tiff" in undiffuse.rejected("compare", nan, "digits")


def test_missing_weights_report_where_they_go(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "UNDIFFUSE_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    line = undiffuse.rejected("compare", "digits", "digits", "--metrics", "lpips_diversity", "--num", 10)
    assert "UNDIFFUSE_WEIGHTS" in line or "lpips" in line.lower()


def test_the_perceptual_diversity_of_one_image_is_none(
    shared_data: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIFFUSE_WEIGHTS", str(shared_data / "weights" / "lpips-alex"))
    folder = write_images(tmp_path / "one", noise(1).repeat(6, axis=0))
    call = (folder, "digits", "--metrics", "lpips_diversity", "--num", 6)
    (row,) = measured(undiffuse, tmp_path / "x.json", *call)["results"]
    assert row["value"] == 0 and row["details"]["real_pictures"] > 0.05 and row["protocol"]["pairs"] == 3


def test_an_idx_file(undiffuse: CommandLine, tmp_path: Path) -> None:
    levels = noise(30, 3, 28, 28)
    path = tmp_path / "some-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, *levels.shape) + levels.tobytes()))
    record = measured(undiffuse, tmp_path / "x.json", path, path, "--metrics", "classes")
    assert record["pictures"]["set"] == "idx" and record["results"][0]["details"]["count"] == 30


def test_from_python() -> None:
    created, real = (torch.from_numpy(noise(30, seed))[:, None] for seed in (0, 1))
    record = compare(created, real, ["kernel"])
    assert record["results"][0]["protocol"]["pictures"]["num"] == 30
    with pytest.raises(UsageError, match=r"1 of 30 images hold NaN"):
        compare(torch.where(torch.arange(30)[:, None, None, None] == 3, torch.nan, created.float()), real)
    with pytest.raises(UsageError, match="uint8"):
        compare(created.float() / 255, real)
    with pytest.raises(UsageError, match=r"\(1, 8, 8\) and \(1, 8, 7\)"):
        compare(created, real[..., :7])


def test_real_digits_are_nearer_to_digits_than_clothes(
    shared_data: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    mnist = shared_data / "mnist"
    options = (mnist, "--num", 200, "--features", "handwriting", "--metrics", METRICS)
    test, fashion = (
        values(measured(undiffuse, tmp_path / "x.json", shared_data / name, *options))
        for name in ("mnist/t10k-images-idx3-ubyte.gz", "fashion-mnist")
    )
    assert test["frechet_handwriting"] < fashion["frechet_handwriting"]
    assert test["kernel_handwriting"] < fashion["kernel_handwriting"]
    assert test["coverage"] > fashion["coverage"] and test["precision"] > fashion["precision"]
