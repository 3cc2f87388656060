"""``undiffuse doctor`` on planted defects in folders and runs, and on what is sound."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine, change_config
from PIL import Image
from safetensors.torch import load_file

from undiffuse.models.files.weights import save_weights


def shapes(count: int, side: int = 32, seed: int = 0) -> list[Image.Image]:
    """Smooth images of faint colours, as photographs have them, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.8 * torch.rand(count, 1, 5, 5, generator=generator) + 0.2 * torch.rand(
        count, 3, 5, 5, generator=generator
    )
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    levels = (fine.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(image)) for image in levels]


def save_all(images: list[Image.Image], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    """Two classes of thirty images each."""
    for number, name in enumerate(("cat", "dog")):
        save_all(shapes(30, seed=number), tmp_path / "sound" / name)
    return tmp_path / "sound"


def examined(undiffuse: CommandLine, *arguments: object, out: Path) -> dict[str, Any]:
    """Findings by title."""
    undiffuse.fine("doctor", *arguments, "--json", out)
    result = json.loads(out.read_text())
    return {finding["title"]: finding for finding in result["findings"]}


def test_a_intact_folder_has_nothing_but_few_images(undiffuse: CommandLine, valid: Path, tmp_path: Path) -> None:
    found = examined(undiffuse, valid, out=tmp_path / "found.json")
    bad = {title for title, row in found.items() if row["severity"] in ("warning", "problem")}
    assert bad == {"very few images"}
    assert found["all files can be read"]["severity"] == found["classes are even"]["severity"] == "ok"


def test_a_folder_without_images_is_a_problem(undiffuse: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = examined(undiffuse, tmp_path / "empty", out=tmp_path / "found.json")
    assert found["the data cannot be read"]["severity"] == "problem"
    assert undiffuse("doctor", tmp_path / "empty", "--strict").code == 1


def test_planted_defects_are_each_found(undiffuse: CommandLine, valid: Path, tmp_path: Path) -> None:
    cat, dog = valid / "cat", valid / "dog"
    (cat / "cut.png").write_bytes((cat / "000.png").read_bytes()[:300])
    (cat / "empty.jpg").touch()
    (cat / "text.png").write_text("no image")
    (valid / "notes.txt").write_text("other")
    shutil.copy(cat / "001.png", cat / "again.png")
    shutil.copy(cat / "002.png", dog / "wrong_class.png")
    with Image.open(cat / "003.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(cat / "mirrored.jpg", quality=80)
        image.convert("CMYK").transpose(Image.Transpose.ROTATE_180).save(cat / "print.jpg", quality=95)
    with Image.open(dog / "004.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).convert("RGBA").save(dog / "alpha.png")
        image.transpose(Image.Transpose.ROTATE_180).convert("P").save(dog / "palette.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.TRANSPOSE).save(dog / "turned.jpg", exif=exif)
    sixteen = np.random.default_rng(0).integers(0, 65536, (32, 32)).astype(np.uint16)
    Image.fromarray(sixteen).save(dog / "sixteen.png")
    Image.new("RGB", (32, 32)).save(dog / "black.png")
    boxed = Image.new("RGB", (32, 32))
    boxed.paste(shapes(1, 32, seed=9)[0].resize((32, 20)).point(lambda v: 60 + v * 3 // 4), (0, 6))
    boxed.save(dog / "boxed.png")
    shapes(1, 24, seed=8)[0].resize((40, 20)).save(dog / "wide.png")

    found = examined(undiffuse, valid, out=tmp_path / "found.json")
    assert set(found["broken files"]["details"]["files"]) == {"cat/cut.png", "cat/empty.jpg", "cat/text.png"}
    assert "data.on_error=skip" in found["broken files"]["advice"]
    assert found["other files"]["severity"] == "note"
    groups = [set(group) for group in found["exact duplicates"]["details"]["groups"]]
    assert {"cat/001.png", "cat/again.png"} in groups and {"cat/002.png", "dog/wrong_class.png"} in groups
    assert found["one image in several classes"]["severity"] == "problem"
    assert "dog/wrong_class.png [dog]" in found["one image in several classes"]["evidence"]
    pairs = found["near-duplicates"]["details"]["pairs"]
    (mirrored,) = [pair for pair in pairs if {pair["first"], pair["second"]} == {"cat/003.png", "cat/mirrored.jpg"}]
    assert mirrored["mirrored"] and mirrored["distance"] < 0.07
    for title, name in {
        "files with CMYK (for print)": "cat/print.jpg",
        "files with transparency": "dog/alpha.png",
        "files with a palette": "dog/palette.png",
        "files with 16 bits per value": "dog/sixteen.png",
        "files with an EXIF orientation": "dog/turned.jpg",
    }.items():
        assert found[title]["details"]["files"] == [name], title
    assert "dog/black.png" in found["images of a single value"]["evidence"]
    assert "dog/boxed.png" in found["bars around images"]["evidence"]
    assert found["images that are not square"]["details"]["not_square"] == 1
    assert found["images of different sizes"]["details"]["sizes"]["20x40"] == 1


def test_a_folder_with_nothing_that_can_be_read_is_reported_file_by_file(
    undiffuse: CommandLine, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / name).write_text("no image")
    found = examined(undiffuse, tmp_path / "bad", out=tmp_path / "found.json")
    assert set(found["broken files"]["details"]["files"]) == {"a.png", "b.png"}
    assert sum(title.startswith("could not be checked") for title in found) == 1
    assert found["the data cannot be read"]["severity"] == "problem"


def test_a_leak_between_two_sets_by_content_and_by_look(undiffuse: CommandLine, valid: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    save_all(shapes(10, seed=7), test)
    assert "nothing shared with" in undiffuse.fine("doctor", valid, "--against", test).out
    shutil.copy(valid / "cat" / "005.png", test / "same.png")
    with Image.open(valid / "dog" / "006.png") as image:
        image.save(test / "compressed.jpg", quality=80)
    found = examined(undiffuse, valid, "--against", test, out=tmp_path / "found.json")
    (shared,) = [row for title, row in found.items() if title.startswith("images shared with")]
    assert shared["severity"] == "problem" and shared["details"]["items"] == ["same.png"]
    (alike,) = [row for title, row in found.items() if title.startswith("near-duplicates of images in")]
    assert [(pair["here"], pair["there"]) for pair in alike["details"]["pairs"]] == [("dog/006.png", "compressed.jpg")]


def colours(folder: Path, count: int, **equal: str) -> None:
    """``count`` PNGs of random colours, 00.png ...; those named in ``equal`` (as ``p21``) are copies of another."""
    folder.mkdir(parents=True)
    for number, levels in enumerate(np.random.default_rng(3).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(levels).save(folder / f"{number:02d}.png")
    for copy, original in equal.items():
        shutil.copy(folder / f"{original}.png", folder / f"{copy.removeprefix('p')}.png")


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "tar"])
def test_images_without_a_caption_are_looked_at_too(undiffuse: CommandLine, tmp_path: Path, archive: bool) -> None:
    colours(tmp_path / "some", 40, p21="20", p39="20")
    for number in range(10):
        (tmp_path / "some" / f"{number:02d}.txt").write_text(f"caption {number}")
    subject = tmp_path / "some"
    if archive:
        subject = tmp_path / "some.tar"
        with tarfile.open(subject, "w") as tar:
            for path in sorted((tmp_path / "some").iterdir()):
                tar.add(path, path.name)
    found = examined(undiffuse, subject, out=tmp_path / "found.json")
    record = json.loads((tmp_path / "found.json").read_text())
    assert (record["looked_at"], record["items"]) == (40, 40)
    missing = found["images without a caption"]
    assert (missing["severity"], missing["details"]["count"], missing["details"]["of"]) == ("warning", 30, 40)
    assert found["exact duplicates"]["details"]["extra"] == 2
    (group,) = found["exact duplicates"]["details"]["groups"]
    assert [name[-6:] for name in group] == ["20.png", "21.png", "39.png"]
    assert found["very few images"]["evidence"].startswith("40 images")
    out = undiffuse.fine("doctor", subject).out
    assert " 1 problem, " not in out and " in 40 of 40 items; " in out


def test_images_without_a_label_are_looked_at_and_keep_the_labels_of_the_others(
    undiffuse: CommandLine, tmp_path: Path
) -> None:
    colours(tmp_path / "some", 30, p28="02", p29="03")  # of 02 and 03 a copy without a label
    lines = [{"file_name": f"{number:02d}.png", "label": number % 2} for number in range(20)]
    (tmp_path / "some" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = examined(undiffuse, tmp_path / "some", out=tmp_path / "found.json")
    assert found["missing labels"]["details"]["count"] == 10
    assert found["tiny classes"]["details"]["counts"] == {"0": 10, "1": 10}
    assert found["exact duplicates"]["details"]["extra"] == 2
    assert "one image in several classes" not in found  # none is no class
    assert found["no contradicting labels"]["evidence"] == "2 classes"


def test_equal_content_is_found_among_all_and_a_part_is_never_taken_for_the_whole(
    undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours(tmp_path / "many", 30, p02="01")
    monkeypatch.setattr("undiffuse.diagnostics.data_context.MOST", 4)  # 0, 10, 19 and 29: neither of the two
    monkeypatch.setattr("undiffuse.diagnostics.dataset_size.MOST", 4)
    found = examined(undiffuse, tmp_path / "many", out=tmp_path / "found.json")
    assert found["exact duplicates"]["details"]["groups"] == [["01.png", "02.png"]]
    assert found["no near-duplicates"]["evidence"].startswith("4 images")
    assert " in 4 of 30 items; " in undiffuse.fine("doctor", tmp_path / "many").out
    shutil.copytree(tmp_path / "many", tmp_path / "again")
    against = examined(undiffuse, tmp_path / "many", "--against", tmp_path / "again", out=tmp_path / "found.json")
    (shared,) = [row for title, row in against.items() if title.startswith("images shared with")]
    assert shared["details"]["count"] == 30


def test_a_grey_set_is_compared_with_a_coloured_one_in_grey_and_reports_so(
    undiffuse: CommandLine, tmp_path: Path
) -> None:
    save_all(shapes(10, seed=7), tmp_path / "colour")
    (tmp_path / "grey").mkdir()
    with Image.open(tmp_path / "colour" / "003.png") as image:
        image.convert("L").save(tmp_path / "grey" / "a.png")
    found = examined(undiffuse, tmp_path / "colour", "--against", tmp_path / "grey", out=tmp_path / "found.json")
    (reported,) = [row for title, row in found.items() if title.startswith("one set is grey")]
    assert "by brightness alone" in reported["evidence"]
    (alike,) = [row for title, row in found.items() if title.startswith("near-duplicates of images in")]
    assert [(pair["here"], pair["there"]) for pair in alike["details"]["pairs"]] == [("003.png", "a.png")]


def test_strict_fails_where_something_is_wrong(undiffuse: CommandLine, valid: Path, tmp_path: Path) -> None:
    assert undiffuse("doctor", valid, "--strict").code == 1  # few images are a warning
    assert undiffuse("doctor", "digits", "--strict").code == 0
    assert undiffuse("doctor", valid).code == 0


def test_points_are_examined_as_far_as_that_goes(undiffuse: CommandLine) -> None:
    out = undiffuse.fine("doctor", "swissroll", "--strict").out
    assert "10,000 points" in out and "check is for images" in out


def test_bad_input_is_one_line(undiffuse: CommandLine, valid: Path, trained: Path, tmp_path: Path) -> None:
    assert "no such file or folder" in undiffuse.rejected("doctor", "folder:" + str(tmp_path / "nowhere"))
    assert "no data source" in undiffuse.rejected("doctor", tmp_path / "nowhere")
    assert "--num is for runs" in undiffuse.rejected("doctor", valid, "--num", 3)
    assert "--near is for data" in undiffuse.rejected("doctor", trained, "--near", 0.1)
    assert "between 0 and 1" in undiffuse.rejected("doctor", valid, "--near", 1.5)
    assert "is a folder" in undiffuse.rejected("doctor", valid, "--json", tmp_path)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of digits that may be changed."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_examined_and_its_record_written(undiffuse: CommandLine, run: Path) -> None:
    undiffuse.fine("doctor", run, "--num", 64)
    record = json.loads((run / "doctor.json").read_text())
    found = {finding["title"]: finding for finding in record["findings"]}
    assert record["doctor"] == "run" and record["subject"] == "run" and "copying" in record["checked"]
    assert found["training is finished"]["severity"] == found["checkpoints are intact"]["severity"] == "ok"
    assert found["no copying seen"]["details"]["num_samples"] == 64
    assert "validation loss" in found and "the process ends in noise" in found
    assert not [title for title in found if "unexpected" in found[title]["evidence"]]


def test_planted_defects_of_a_run_are_each_found(undiffuse: CommandLine, run: Path, tmp_path: Path) -> None:
    log_rows = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log_rows.read_text().splitlines()]
    lines[3]["loss"] = float("nan")
    del lines[3]["crc32"]  # of what was written
    log_rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = json.loads((run / "config.json").read_text())
    config["config"]["num_images"] *= 2
    config["config"]["ema"] = {"halflife_images": 1_000_000, "rampup": None}
    config["config"]["system"]["process"] = {
        "name": "ddpm_linear",
        "num_steps": 200,
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    change_config(run, config)
    checkpoint = max((run / "checkpoints").iterdir())
    content = bytearray((checkpoint / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "state.safetensors").write_bytes(bytes(content))
    weights = load_file(run / "raw.safetensors")
    next(iter(weights.values())).fill_(torch.nan)
    save_weights(run / "raw.safetensors", weights)

    found = examined(undiffuse, run, "--num", 48, out=tmp_path / "found.json")
    assert found["losses that are not finite"]["severity"] == "problem"
    assert "undiffuse train --resume" in found["training is not finished"]["advice"]
    assert found["averaged weights are immature"]["severity"] == "problem"
    signal = found["signal is left at the noisy end"]
    assert signal["details"]["signal_left"] == pytest.approx(0.3636, abs=1e-4)
    assert signal["details"]["bits_per_dim"] == pytest.approx(0.1023, abs=1e-4)
    assert checkpoint.name in found["damaged checkpoints"]["evidence"]
    assert "(raw)" in found["weights that are not finite"]["evidence"]


def test_damaged_weights_are_a_finding_and_the_rest_is_still_examined(
    undiffuse: CommandLine, run: Path, tmp_path: Path
) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(bytes(content))
    found = examined(undiffuse, run, out=tmp_path / "found.json")
    assert found["the model cannot be loaded"]["severity"] == "problem"
    (rejected,) = [row for title, row in found.items() if title.startswith("could not be checked")]
    assert "do not match their checksum" in rejected["evidence"] and "copying" in rejected["details"]["checks"]
    assert found["training is finished"]["severity"] == "ok"


def test_a_run_of_points_is_examined_as_far_as_that_goes(
    undiffuse: CommandLine, trained_points: Path, tmp_path: Path
) -> None:
    found = examined(undiffuse, trained_points, out=tmp_path / "found.json")
    # the 200 steps of the documents leave signal, which costs data of about unit variance nothing
    assert found["signal is left at the noisy end"]["severity"] == "note"
    assert found["weights"]["severity"] == "ok"
    assert not [title for title in found if "unexpected" in found[title]["evidence"]]


def test_real_digits_hold_no_copies(undiffuse: CommandLine, shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "mnist").is_dir():
        pytest.skip(f"no MNIST in {shared_data}")
    test = next((shared_data / "mnist").glob("t10k-images*"))
    found = examined(undiffuse, test, "--strict", out=tmp_path / "found.json")
    assert found["no near-duplicates"]["severity"] == found["no exact duplicates"]["severity"] == "ok"
