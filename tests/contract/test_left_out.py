"""What is not read is counted and named, once, whatever it lies in; which image of a sample is one's choice."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from image_files import Content, is_of, png, write_tar, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, TarConfig, load_dataset, source_config_for
from undiffuse.data.prepare import prepare
from undiffuse.data.sources.layout.ignored_items import FURTHER, IgnoredItems
from undiffuse.errors import UsageError


def tar(path: Path, files: dict[str, Content], **options: object) -> Dataset:
    return load_dataset(TarConfig(path=str(write_tar(path / "x.tar", files)), **options))  # type: ignore[arg-type]


def names(dataset: Dataset) -> list[str]:
    """Of the items, without what they lie in."""
    return [dataset.item_name(item).rpartition("!")[2].rpartition("/")[2] for item in range(len(dataset))]


def test_numbers_after_a_dot_are_names_and_no_columns(tmp_path: Path) -> None:
    wget = {name: png(seed) for seed, name in enumerate(["cat.1.png", "cat.2.png", "cat.png", "dog.png"])}
    found = tar(tmp_path, wget)
    assert names(found) == list(wget) and all(is_of(found, item, item) for item in range(4))
    assert "left_out" not in found.provenance
    scattered = {name: wget[name] for name in ("cat.2.png", "dog.png", "cat.1.png", "cat.png")}
    assert sorted(names(tar(tmp_path, scattered))) == sorted(scattered)
    frames = {f"frame.{number:04}.{ending}": png(number) for number in range(3) for ending in ("png",)}
    assert names(tar(tmp_path, frames)) == list(frames)
    members = {f"frame.{number:04}.{ending}": png(number) if ending == "png" else f"at {number}" for number in range(3)
            for ending in ("png", "txt")}  # fmt: skip
    assert tar(tmp_path, members).captions == ["at 0", "at 1", "at 2"]
    named = {"St. Mary.png": png(0), "St. Paul.png": png(1)}
    assert names(tar(tmp_path, named)) == list(named)


def test_one_numbered_image_of_a_key_keeps_the_notes_of_the_key(tmp_path: Path) -> None:
    files = {f"{key}.{ending}": png(0) if ending == "1.png" else key for key in "ab" for ending in ("1.png", "txt")}
    assert tar(tmp_path, files).captions == ["a", "b"]


def test_a_mask_next_to_each_image_is_left_out_and_counted(tmp_path: Path) -> None:
    files = {f"{key:04}.{ending}": png(key) for key in range(4) for ending in ("jpg", "seg.png")}
    found = tar(tmp_path, files)
    assert names(found) == [f"{key:04}.jpg" for key in range(4)]
    said = "4 further images of samples: 0000.seg.png, 0001.seg.png, 0002.seg.png and 1 more"
    assert found.provenance["left_out"].startswith(said)
    assert names(tar(tmp_path, files, image_column="seg")) == [f"{key:04}.seg.png" for key in range(4)]


def test_of_several_images_of_a_sample_one_is_chosen_by_its_column(tmp_path: Path) -> None:
    pair = {"0.left.png": png(0), "0.right.png": png(1), "1.left.png": png(2), "1.right.png": png(3)}
    choices = (
        r"x\.tar!0: a sample with 2 images; choose one of each sample by data.image_column=left\.png or right\.png"
    )
    with pytest.raises(UsageError, match=choices):
        tar(tmp_path, pair)
    for column in ("right", "Right", "right.png", ".right.png"):
        found = tar(tmp_path, pair, image_column=column)
        assert names(found) == ["0.right.png", "1.right.png"] and is_of(found, 1, 3)
        assert found.provenance["left_out"].startswith("2 further images of samples: 0.left.png, 1.left.png")
    with pytest.raises(UsageError, match=r"without an image 'up'; use data.image_column=left\.png or right\.png"):
        tar(tmp_path, pair, image_column="up")
    members: dict[str, Content] = {"0.input.jpg": png(0), "0.output.jpg": png(1), "0.txt": "make it red"}
    found = tar(tmp_path, members, image_column="output")
    assert found.captions == ["make it red"] and is_of(found, 0, 1)
    views: dict[str, Content] = {"0.0.png": png(0), "0.1.png": png(1), "0.txt": "both"}
    with pytest.raises(UsageError, match=r"data.image_column=0\.png or 1\.png"):  # whose is the text?
        tar(tmp_path, views)
    assert is_of(tar(tmp_path, views, image_column="1"), 0, 1)


@pytest.mark.parametrize("blanks", [0, 512, 10240])
def test_an_archive_behind_another_is_read_too(tmp_path: Path, blanks: int) -> None:
    first, second = (write_tar(tmp_path / name, {f"{name}.png": png(seed)}) for seed, name in enumerate("ab"))
    path = tmp_path / "both.tar"
    path.write_bytes(first.read_bytes() + bytes(blanks) + second.read_bytes())
    found = load_dataset(TarConfig(path=str(path)))
    assert names(found) == ["a.png", "b.png"] and is_of(found, 1, 1)
    path.write_bytes(first.read_bytes() + bytes(blanks) + b"a remark" * 100)  # as tar itself: no archive, no error
    assert names(load_dataset(TarConfig(path=str(path)))) == ["a.png"]


OTHERS: dict[str, Content] = {
    "a.png": png(0),
    "IMG_1.HEIC": "x",
    "b.jxl": "x",
    "walk.mp4": "x",
    "more.zip": "x",
    "README.md": "x",
    ".DS_Store": "x",
    "Thumbs.db": "x",
    "__MACOSX/._a.png": "x",
}


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_other_files_are_named_by_kind_and_those_one_may_miss_are_reported(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undiffuse.data.readers.decoding.heic.is_installed", lambda: False)
    writers = {"folder": write_tree, "zip": write_zip, "tar": write_tar}
    path = tmp_path / f"set.{form}"
    writers[form](path, OTHERS)
    found = load_dataset(source_config_for(str(path)))
    warned, quiet = found.provenance["left_out"], found.provenance["passed_over"]
    for said in (
        "1 HEIC image: IMG_1.HEIC (pip install",
        "1 image of a format that is not read: ",
        "b.jxl",
        "1 video: walk.mp4",
        "1 nested archive",
    ):
        assert said in warned
    assert "2 files without an image extension" in quiet and "README.md" in quiet and "Thumbs.db" in quiet
    assert "2 hidden files or folders" in quiet and ".DS_Store" in quiet
    assert [record.message for record in caplog.records] == [f"{path}: {warned}"]


def test_a_few_names_are_kept_of_however_many() -> None:
    found = IgnoredItems()
    for number in range(1234):
        found.add(FURTHER, f"{number}.png")
    assert found.text(warned=True).startswith("1,234 further images of samples: 0.png, 1.png, 10.png and 1,231 more (")
    assert found.text(warned=False) == ""


def test_a_zip_before_a_zip_is_reported_and_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    first, second = (write_zip(tmp_path / f"{name}.zip", {f"{name}.png": png(0)}) for name in "ab")
    path = tmp_path / "both.zip"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    found = load_dataset(source_config_for(str(path)))
    assert names(found) == ["b.png"] and found.provenance["left_out"].startswith("1 archive before the last")
    path.write_bytes(b"#!/bin/sh\n" + second.read_bytes())  # it unpacks itself
    assert "left_out" not in load_dataset(source_config_for(str(path))).provenance
    np.savez(
        tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 1]), masks=np.zeros((2, 4, 4))
    )
    assert load_dataset(source_config_for(str(tmp_path / "x.npz"))).provenance["arrays_not_read"] == "masks"


def test_images_and_folders_next_to_shards_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x-0.tar", {"0.png": png(0)})
    write_tree(tmp_path, {"loose.png": png(1), "more/1.png": png(2), "index.json": "{}"})
    about = load_dataset(source_config_for(str(tmp_path))).provenance
    assert (
        "1 image outside the data that is read: loose.png" in about["left_out"]
        and "1 folder outside" in about["left_out"]
    )
    assert about["passed_over"] == "1 file without an image extension: index.json"


NESTED = {
    "one zip": ({"in.zip": b"PK\3\4"}, "in.zip"),
    "one array": ({"deep/x.npz": b"PK\3\4"}, "deep/x.npz"),
    "MNIST as torchvision keeps it": ({"MNIST/raw/train-images-idx3-ubyte": b"\0\0\x08\x03"}, "MNIST/raw"),
    "a table": ({"default/x/0.parquet": b"PAR1"}, "default/x"),
    "shards": ({"a/0.tar": b""}, "a"),
}


@pytest.mark.parametrize("kind", sorted(NESTED))
def test_a_folder_without_images_reports_what_to_name_instead(tmp_path: Path, kind: str) -> None:
    files, place = NESTED[kind]
    write_tree(tmp_path, files)
    with pytest.raises(UsageError, match="no images in this folder") as caught:
        load_dataset(FolderConfig(path=str(tmp_path)))
    named = str(caught.value).partition("; name what is in it: ")[2]
    assert named == str(tmp_path / place)
    assert source_config_for(named).name != "folder"  # the advice can be followed


def test_names_that_are_no_text_are_written_so_that_they_can_be_read(tmp_path: Path) -> None:
    for seed, folder in enumerate([b"caf\xe9", b"the"]):
        path = tmp_path / folder.decode("utf-8", "surrogateescape")
        try:
            path.mkdir()
        except OSError:
            pytest.skip("this file system takes no such name")
        (path / "0.png").write_bytes(png(seed))
    found = load_dataset(FolderConfig(path=str(tmp_path)))
    assert found.class_names == ("caf\\xe9", "the") and found.item_name(0) == f"{tmp_path}/caf\\xe9/0.png"
    assert is_of(found, 0, 0) and found.provenance["classes_called"].startswith(
        "caf\\xe9: names that are not valid UTF-8"
    )
    assert load_dataset(FolderConfig(path=str(tmp_path), classes=("caf\\xe9",))).class_names == ("caf\\xe9",)
    (tmp_path / "the" / "0.png").write_bytes(b"no image")
    (tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape") / "0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"caf\\xe9/0\.png: not an image") as caught:
        load_dataset(FolderConfig(path=str(tmp_path)))
    str(caught.value).encode()  # no half characters


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_two_folders_of_one_look_are_one_class(tmp_path: Path, form: str) -> None:
    spellings = [unicodedata.normalize(name, "café") for name in ("NFC", "NFD")]
    files = {f"{spelling}/{number}.png": png(number) for number, spelling in enumerate(spellings)}
    path = tmp_path / f"x.{form}"
    {"folder": write_tree, "zip": write_zip, "tar": write_tar}[form](path, files)
    found = load_dataset(source_config_for(str(path)))
    assert found.class_names == (spellings[0],) and found.labels is not None and found.labels.tolist() == [0, 0]
    assert found.provenance["classes_joined"].startswith("café: spelled in two ways")
    alone = {f"{spellings[1]}/0.png": png(0), "the/1.png": png(1)}  # of macOS: the name stays as it was
    write_tree(tmp_path / "mac", alone)
    found = load_dataset(FolderConfig(path=str(tmp_path / "mac")))
    assert found.class_names == (spellings[1], "the") and "classes_joined" not in found.provenance


def test_a_path_that_is_no_text_is_rejected_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"caf\\xe9: the path is not valid UTF-8 .*; rename it"):
        source_config_for(str(tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")))


def test_a_folder_of_test_digits_alone_reports_which_file_to_name(tmp_path: Path) -> None:
    images = tmp_path / "t10k-images-idx3-ubyte"
    images.write_bytes(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4)) + bytes(32))
    with pytest.raises(UsageError, match=r"no IDX images of the split 'train'.*, or name .*ubyte itself") as caught:
        load_dataset(source_config_for(str(tmp_path)))
    named = str(caught.value).partition("or name ")[2].partition(" itself")[0]
    assert len(load_dataset(source_config_for(named))) == 2


def test_what_a_prepared_archive_reports_of_its_source(tmp_path: Path) -> None:
    write_tree(tmp_path / "x", {"train/0.png": png(0), "test/1.png": png(1), "train/b.jxl": "x"})
    source = prepare(source_config_for(str(tmp_path / "x")), tmp_path / "x.zip", workers=1)["source"]
    assert source["num_pictures"] == 1 and source["splits"].startswith("images by split: train (1) used, test (1) left")
    assert source["left_out"].startswith("1 image of a format that is not read: train/b.jxl")
