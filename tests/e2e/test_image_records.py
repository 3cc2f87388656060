"""The record inside an image file: what it contains, what it leaves out, and what a damaged one gets."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import undiffuse
from undiffuse.api.repeating.recorded_image import RecordedImage
from undiffuse.checksums import with_checksum
from undiffuse.errors import UsageError
from undiffuse.images import fill_png
from undiffuse.models.options import NO_OPTIONS
from undiffuse.models.sample_sets.image_record import KEY, VIEWER_KEY, image_record, texts_of, viewer_text
from undiffuse.models.sample_sets.text_chunks import MAX_TEXT_BYTES, read_texts

ROW: dict[str, Any] = {
    **{"file": "000003.png", "seed": 3, "class": "3", "model": "mnist", "model_sha256": "ab" * 32, "recipe": ""},
    **{"sampler": "heun", "steps": 10, "grid": "karras:rho=5", "guidance": 2.5, "nfe": 19, "partial_nfe": 0},
}
#: As a file of the first version has it; later versions have to read it.
FORMAT_1 = (
    '{"format": 1, "undiffuse": "0.1.0", "size": [8, 8], "seed": 3, "class": null, "model": "mnist", "model_sha256": '
    f'"{"ab" * 32}", "sampler": "heun", "steps": 10, "guidance": 2.5, "guidance_interval": "-3,inf", "computed_with": '
    '{"device": "cpu", "threads": 2, "compiler": null}, "checksum": '
    '"caabccdece58ed56d091eccddcf6f49c0e44d49a57e51a3cc5ac21548f436a57"}'
)
PIXELS = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits of a bundled model, written by Python."""
    out = tmp_path_factory.mktemp("made") / "by me" / "digits"
    undiffuse.sample("mnist-1step", 3, seed=40, class_name=["7", None], out=out)
    return out


def written(path: Path, **entries: Any) -> Path:
    """An image with a record of ``ROW`` and other entries."""
    record = image_record({**ROW, **entries}, (8, 8), {"device": "cpu"})
    fill_png(path, PIXELS, texts_of(record))
    return path


def rejected(path: Path) -> str:
    with pytest.raises(UsageError) as raised:
        undiffuse.read_record(path)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 1000
    return message


def test_each_image_has_its_entry_of_the_record_of_the_set(samples: Path) -> None:
    whole = json.loads((samples / "samples.json").read_text())
    for row in whole["images"]:
        record = undiffuse.read_record(samples / row["file"])
        assert record["computed_with"] == whole["computed_with"] and record["undiffuse"] == undiffuse.__version__
        assert {key: record[key] for key in row.keys() - {"file", "nfe", "partial_nfe"}}.items() <= row.items()
    assert [row["class"] for row in whole["images"]] == ["7", None, "7"]


def test_image_viewers_read_the_usual_line(samples: Path) -> None:
    with Image.open(samples / "000000.png") as image:
        assert list(image.info) == [KEY, VIEWER_KEY]
        assert image.info[VIEWER_KEY] == (
            "Steps: 1, Sampler: consistency, Schedule type: angle, CFG scale: 1, Seed: 40, Size: 28x28, "
            f"Model hash: 4edd50f7b6, Model: mnist-1step, Class: 7, Version: undiffuse {undiffuse.__version__}"
        )
    text = viewer_text({**ROW, "prompt": 'a "red"\ncircle', "negative": "blue", "class": "a, b: c"})
    assert text.startswith('a "red"\ncircle\nNegative prompt: blue\nSteps: 10, ') and 'Class: "a, b: c"' in text


def test_no_file_contains_a_path(samples: Path) -> None:
    for path in samples.glob("*.png"):
        with Image.open(path) as image:
            texts = " ".join(image.info.values())
        assert str(samples.parent) not in texts and "by me" not in texts and str(Path.home()) not in texts
    for path in ("/home/me/guide", "~me/guide"):
        assert image_record({**ROW, "guide": path, "prompt": path}, (8, 8), {})["guide"] == "guide"
    assert image_record({**ROW, "prompt": "/imagine a fox"}, (8, 8), {})["prompt"] == "/imagine a fox"
    record = image_record({**ROW, "image": {"source": "/home/me/cat.png", "sha256": "0" * 64}}, (8, 8), {})
    assert record["image"] == {"sha256": "0" * 64}


def test_without_records_pixels_are_equal_and_the_files_have_no_text(
    samples: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    common = ("sample", "mnist-1step", "-n", 3, "--seed", 40, "--class", 7, "--no-class", "--out")
    undiffuse.fine(*common, tmp_path / "bare", "--no-record")
    for path in samples.glob("*.png"):
        with Image.open(path) as image, Image.open(tmp_path / "bare" / path.name) as bare:
            assert not bare.info and np.array_equal(np.asarray(image), np.asarray(bare))
    records = [json.loads((folder / "samples.json").read_text()) for folder in (samples, tmp_path / "bare")]
    assert records[0]["images"] == records[1]["images"]


def test_python_saves_the_same_bytes(samples: Path, tmp_path: Path) -> None:
    again = undiffuse.sample("mnist-1step", 3, seed=40, class_name=["7", None])
    again.save(tmp_path / "saved")
    for path in samples.iterdir():
        assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes()
    again.save(tmp_path / "bare", record=False)
    assert "has no record" in rejected(tmp_path / "bare" / "000000.png")


@pytest.mark.parametrize("text", ["ein Fuchs 🦊, \"rot\"\n\t'x' \\ \0 <b>", "é" * 10_000, "\udcff", ""])
def test_prompts_round_trip(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "with spaces é.png", prompt=text, negative=text)
    record = undiffuse.read_record(path)
    assert record["prompt"] == record["negative"] == text
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(np.asarray(image), PIXELS[0])


def test_what_has_no_record(tmp_path: Path, samples: Path) -> None:
    with Image.open(samples / "000000.png") as image:
        image.save(tmp_path / "again.png")
        image.convert("RGB").save(tmp_path / "photo.jpg")
    assert "saved again by a program" in rejected(tmp_path / "again.png")
    assert "is not a PNG" in rejected(tmp_path / "photo.jpg")
    fill_png(tmp_path / "foreign.png", PIXELS, {VIEWER_KEY: "a cat\nSteps: 20, Sampler: Euler a, Seed: 1"})
    assert "another program" in rejected(tmp_path / "foreign.png")
    assert "is a folder" in rejected(samples)
    assert "cannot read" in rejected(tmp_path / "absent.png")
    (tmp_path / "empty.png").touch()
    assert "is not a PNG" in rejected(tmp_path / "empty.png")


def test_a_record_of_the_first_version_is_read(tmp_path: Path) -> None:
    fill_png(tmp_path / "a.png", PIXELS, {KEY: FORMAT_1})
    options = RecordedImage(tmp_path / "a.png").options(NO_OPTIONS, {"sampler": "heun", "guidance": 1.0})
    assert options.given() == {"steps": 10, "guidance": 2.5, "guidance_interval": (-3.0, float("inf"))}
    fill_png(tmp_path / "b.png", PIXELS, {KEY: FORMAT_1.replace('"seed": 3', '"seed": 4')})
    assert "was changed after it was written" in rejected(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "damaged"),
        ("[1]", "expected a JSON object"),
        ("{}", "lacks 'format'"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": 2}', "update undiffuse"),
        (json.dumps(image_record(ROW, (8, 8), {}) | {"seed": 4}), "was changed after it was written"),
        (json.dumps(image_record(ROW | {"seed": -1}, (8, 8), {})), "'seed' is -1"),
        (json.dumps(image_record(ROW | {"seed": True}, (8, 8), {})), "'seed' is True"),
        (json.dumps(image_record(ROW | {"class": 3}, (8, 8), {})), "'class' is 3"),
        (json.dumps(image_record(ROW | {"model_sha256": "x" * 5000}, (8, 8), {})), "'model_sha256' is"),
        (json.dumps(with_checksum({"format": 1})), "lacks 'undiffuse'"),
    ],
)
def test_an_invalid_record_gets_one_line(text: str, expected: str, tmp_path: Path) -> None:
    fill_png(tmp_path / "a.png", PIXELS, {KEY: text})
    assert expected in rejected(tmp_path / "a.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_texts_are_bounded_before_they_are_decompressed(tmp_path: Path) -> None:
    bomb = zlib.compress(b"a" * (4 * MAX_TEXT_BYTES), 9)
    for name, data in (("z.png", chunk(b"zTXt", b"undiffuse\0\0" + bomb)), ("i.png", b"\x7f\xff\xff\xffiTXt")):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        assert "exceeds" in rejected(tmp_path / name)


def test_all_kinds_of_text_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    kinds = {
        "tEXt": chunk(b"tEXt", b"a\0caf\xe9"),
        "zTXt": chunk(b"zTXt", b"b\0\0" + zlib.compress(b"long")),
        "iTXt": chunk(b"iTXt", b"c\0\1\0de\0\0" + zlib.compress("语".encode())),
    }
    plain = written(tmp_path / "plain.png").read_bytes()
    (tmp_path / "all.png").write_bytes(plain[:33] + b"".join(kinds.values()) + plain[33:])
    with Image.open(tmp_path / "all.png") as image:
        expected = {key: str(image.info[key]) for key in ("a", "b", "c")}
    assert read_texts(tmp_path / "all.png", ("a", "b", "c")) == expected == {"a": "café", "b": "long", "c": "语"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_as_it_was_or_gets_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = written(folder / "a.png")
    whole, record = path.read_bytes(), undiffuse.read_record(path)
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:position])
    else:
        path.write_bytes(whole[:position] + data.draw(st.binary(min_size=1, max_size=5)) + whole[position + 1 :])
    try:
        assert undiffuse.read_record(path) == record
    except UsageError as error:
        assert "\n" not in str(error) and str(path) in str(error)
