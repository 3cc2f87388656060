"""What a folder of images may hold that is no sound image: one clear line, or a counted and reported skip."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undiffuse.data import FolderConfig, load_dataset
from undiffuse.errors import UsageError


def noise(seed: int = 0, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def valid(folder: Path, count: int = 3) -> None:
    for index in range(count):
        noise(index).save(folder / f"sound{index}.png")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(folder: Path, ending: str) -> bytes:
    path = folder / f"whole.{ending}"
    noise().save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def make_bad(folder: Path, kind: str) -> Path:
    """Write one bad file and return its path."""
    ending = kind.rpartition(" ")[2] if " " in kind else "png"
    path = folder / f"a_bad.{ending}"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 not found</html>")
    elif kind.startswith("cut"):
        content = encoded(folder, ending)
        path.write_bytes(content[: len(content) // 2])
    elif kind.startswith("header"):
        path.write_bytes(encoded(folder, ending)[:20])
    elif kind == "bomb":
        path.write_bytes(bomb(60_000, 60_000))
    elif kind == "small bomb":
        path = folder / "a_bad.png"
        path.write_bytes(bomb(10_000, 10_000))
    elif kind == "flipped":
        content = bytearray(encoded(folder, "png"))
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere.png")
    elif kind == "float":
        path = folder / "a_bad.tif"
        Image.fromarray(np.full((32, 32), np.nan, dtype=np.float32)).save(path)
    elif kind == "wide":
        path = folder / "a_bad.tif"
        Image.fromarray(np.full((32, 32), 10**6, dtype=np.int32)).save(path)
    return path


KINDS = {
    "empty": "is empty",
    "text": "not an image",
    "cut png": "damaged or cut short",
    "cut jpg": "damaged or cut short",
    "cut gif": "damaged or cut short",
    "cut webp": "damaged or cut short|not an image",
    "cut tif": "damaged or cut short|not an image",
    "cut bmp": "damaged or cut short",
    "header png": "damaged or cut short|not an image",
    "header jpg": "damaged or cut short|not an image",
    "bomb": "decompression bomb|decoded safely",
    "small bomb": "100000000|decoded safely",
    "flipped": "its pixels do not match their checksum",
    "dangling": "cannot be read",
    "float": "floating-point levels",
    "wide": "outside 0..65535",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    valid(tmp_path)
    path = make_bad(tmp_path, kind)
    with pytest.raises(UsageError, match=KINDS[kind]) as caught:
        load_dataset(FolderConfig(path=str(tmp_path)))
    message = str(caught.value)
    assert message.startswith(str(path)) and "on_error=skip" in message and "\n" not in message
    assert not recwarn.list


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bad_file_is_skipped_counted_and_reported(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    valid(tmp_path)
    path = make_bad(tmp_path, kind)
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(FolderConfig(path=str(tmp_path), on_error="skip"))
    assert len(dataset) == 3 and dataset.shape == (3, 32, 32)
    assert dataset.provenance["skipped"].startswith("1 file left out") and path.name in dataset.provenance["skipped"]
    assert len(caplog.records) == 1 and path.name in caplog.text
    assert [Path(dataset.item_name(i)).name for i in range(3)] == ["sound0.png", "sound1.png", "sound2.png"]


def test_labels_stay_with_their_images_when_files_are_skipped(tmp_path: Path) -> None:
    for index, name in enumerate(["cat", "dog", "emu"]):
        (tmp_path / name).mkdir()
        noise(index).save(tmp_path / name / "b.png")
    make_bad(tmp_path / "cat", "cut png")
    make_bad(tmp_path / "dog", "empty")
    dataset = load_dataset(FolderConfig(path=str(tmp_path), on_error="skip"))
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 2]
    assert dataset.class_names == ("cat", "dog", "emu")
    assert [np.array_equal(dataset.items(np.array([i]))[0].transpose(1, 2, 0), np.asarray(noise(i))) for i in range(3)]


def test_nothing_left_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for kind in ("empty", "cut jpg"):
        make_bad(tmp_path, kind)
    with pytest.raises(UsageError, match=r"none of the .* images can be used; the first: .*a_bad"):
        load_dataset(FolderConfig(path=str(tmp_path), on_error="skip"))


def test_a_crop_larger_than_the_image_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    valid(tmp_path)
    noise(side=16).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match=r"small\.png: .*16x16.*20x20.*size=16.*upscale=true"):
        load_dataset(FolderConfig(path=str(tmp_path), size=20))
    assert len(load_dataset(FolderConfig(path=str(tmp_path), size=20, on_error="skip"))) == 3
    assert load_dataset(FolderConfig(path=str(tmp_path), size=20, upscale=True)).shape == (3, 20, 20)
    assert load_dataset(FolderConfig(path=str(tmp_path), size=20, fit="letterbox")).shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"\(no files\); expected .*\.png"),
        (["notes.txt"], r"\(1 file without an image extension: notes\.txt\); expected .*\.png"),
        (["notes.txt", "set.zip"], r"\(1 nested archive: set\.zip; 1 file .*\); name what is in it: .*/set\.zip"),
    ],
)
def test_a_folder_without_images(tmp_path: Path, content: list[str], message: str) -> None:
    for name in content:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=f"no images in this folder {message}"):
        load_dataset(FolderConfig(path=str(tmp_path)))


def test_no_folder_and_a_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_dataset(FolderConfig(path=str(tmp_path / "nowhere")))
    noise().save(tmp_path / "x.png")
    with pytest.raises(UsageError, match="a file; expected a folder"):
        load_dataset(FolderConfig(path=str(tmp_path / "x.png")))


def test_folder_labels_need_folders(tmp_path: Path) -> None:
    valid(tmp_path)
    with pytest.raises(UsageError, match="is not in a sub-folder"):
        load_dataset(FolderConfig(path=str(tmp_path), labels="folders"))


def test_a_file_that_goes_bad_later_is_named_when_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valid(tmp_path)
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    dataset = load_dataset(FolderConfig(path=str(tmp_path), cache="none"))
    (tmp_path / "sound1.png").write_bytes(b"")
    assert len(dataset.fetch([0, 2])) == 2
    with pytest.raises(UsageError, match=r"sound1\.png: the file is empty"):
        dataset.fetch([0, 1])


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *what, **options: run.append(what))
    valid(tmp_path)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(rm) run\n%%EOF\n"
    (tmp_path / "x.png").write_bytes(program)
    with pytest.raises(UsageError, match=r"x\.png: not an image that can be read"):
        load_dataset(FolderConfig(path=str(tmp_path)))
    assert not run
