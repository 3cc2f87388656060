"""Folders and shards that are called train, test, images, masks: recognised as the parts of a set, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import Content, is_of, jsonl, png, write_tar, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, load_dataset, source_config_for
from undiffuse.data.sources.layout.splits import are_splits, split_of
from undiffuse.errors import UsageError

WRITERS = {"folder": write_tree, "zip": write_zip, "tar": write_tar}


@pytest.fixture(params=sorted(WRITERS))
def load(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]  # a function with options
    def from_names(names: list[str], **options: object) -> Dataset:
        path = tmp_path / f"set{len(list(tmp_path.iterdir()))}.{request.param}"
        WRITERS[request.param](path, {name: png(seed) for seed, name in enumerate(names)})
        return load_dataset(source_config_for(str(path)).model_copy(update=options))

    return from_names


def labels_of(dataset: Dataset) -> list[str] | None:
    return None if dataset.labels is None else [dataset.class_names[label] for label in dataset.labels]


@pytest.mark.parametrize(
    "others", [("test",), ("Val", "TEST"), ("validation",), ("eval",), ("dev", "holdout"), ("valid",)]
)
def test_the_training_part_is_taken_and_its_folders_are_no_classes(load, others: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    names = ["Train/0.png", "Train/1.png", *(f"{part}/0.png" for part in others)]
    found = load(sorted(names))
    assert len(found) == 2 and found.labels is None
    assert "Train (2) used" in found.provenance["splits"] and f"{sorted(others)[0]} (1)" in found.provenance["splits"]
    for part in others:
        assert found.provenance["splits"].count("data.split=") == 2 and len(load(sorted(names), split=part)) == 1
    assert len(load(sorted(names), split="all")) == 2 + len(others)
    assert load(sorted(names), split="none").class_names == tuple(sorted(["Train", *others]))


def test_classes_lie_below_the_parts_or_above_them(load) -> None:  # type: ignore[no-untyped-def]
    below = load(["x/test/cat/0.png", "x/train/cat/0.png", "x/train/dog/0.png"])
    assert labels_of(below) == ["cat", "dog"] and is_of(below, 0, 1)
    above = load(["cat/test/0.png", "cat/train/0.png", "dog/test/0.png", "dog/train/0.png"])
    assert labels_of(above) == ["cat", "dog"] and is_of(above, 1, 3)
    every = load(["cat/test/0.png", "cat/train/0.png", "dog/test/0.png", "dog/train/0.png"], split="all")
    assert labels_of(every) == ["cat", "cat", "dog", "dog"]
    domains = load(["testA/0.png", "testB/0.png", "trainA/0.png", "trainB/0.png"])
    assert labels_of(domains) == ["a", "b"] and is_of(domains, 0, 2)


def test_a_class_called_test_or_train_among_others_is_a_class(load) -> None:  # type: ignore[no-untyped-def]
    for names in (["car/0.png", "train/0.png"], ["cat/0.png", "test/0.png", "train/0.png"], ["test/0.png"]):
        found = load(names)
        assert len(found) == len(names) and "splits" not in found.provenance
    assert load(["bus/0.png", "train/0.png"]).class_names == ("bus", "train")
    chosen = load(["cat/0.png", "test/0.png", "train/0.png"], split="train")  # asked for, it is a part
    assert len(chosen) == 1 and is_of(chosen, 0, 2)


def test_parts_without_one_for_training_and_parts_that_are_not_there_are_rejected(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        UsageError, match=r"none for training among test \(1\), val \(1\); use data.split=test or validation"
    ):
        load(["test/0.png", "val/0.png"])
    assert len(load(["test/0.png", "val/0.png"], split="validation")) == 1
    with pytest.raises(UsageError, match="no split 'dev' among test"):
        load(["test/0.png", "train/0.png"], split="dev")
    with pytest.raises(UsageError, match=r"data\.split=test, but no folder is named test"):
        load(["a/0.png", "b/0.png"], split="test")


def test_images_and_masks_are_no_classes(load) -> None:  # type: ignore[no-untyped-def]
    found = load(["images/0.png", "images/1.png", "masks/0.png", "masks/1.png"])
    assert len(found) == 2 and found.labels is None and is_of(found, 1, 1)
    assert found.provenance["masks"].startswith("images (2) used, masks (2) left out")
    both = load(["images/train/0.png", "images/val/0.png", "labels/train/0.png", "labels/val/0.png"])
    assert len(both) == 1 and is_of(both, 0, 0)
    other_way = load(["test/JPEGImages/0.png", "train/Annotations/0.png", "train/JPEGImages/0.png"])
    assert len(other_way) == 1 and is_of(other_way, 0, 2)
    assert load(["images/0.png", "masks/0.png"], split="none").class_names == ("images", "masks")


def test_masks_next_to_their_images_and_in_folders_of_their_own_are_left_out(load) -> None:  # type: ignore[no-untyped-def]
    files = ["a/1.png", "a/1_mask.png", "a/1_mask_1.png", "b/2.png", "b/2_Mask.png"]
    found = load(files)
    assert len(found) == 2 and labels_of(found) == ["a", "b"] and is_of(found, 1, 3)
    assert found.provenance["masks"].startswith("3 masks of images next to them left out, as of a/1 (data.split=none")
    assert len(load(files, split="none")) == 5
    assert len(load(["a/1.png", "a/face_mask.png", "b/2.png"])) == 3  # a mask of nothing that is there
    folders = load(["test/1.png", "train/0.png", "train_masks/0.png"])
    assert len(folders) == 1 and is_of(folders, 0, 1)
    named = load(["Test_Images/1.png", "Train_Images/0.png", "Train_Masks/0.png"])
    assert len(named) == 1 and named.labels is None and is_of(named, 0, 1)


def test_lists_and_notes_of_other_parts_are_no_errors(tmp_path: Path) -> None:
    lines = [{"file_name": f"{part}/{n}.png", "text": f"{part} {n}"} for part in ("train", "test") for n in range(2)]
    files: dict[str, Content] = {str(line["file_name"]): png(n) for n, line in enumerate(lines)}
    write_tree(tmp_path / "a", {**files, "metadata.jsonl": jsonl(*lines)})
    assert load_dataset(FolderConfig(path=str(tmp_path / "a"))).captions == ["train 0", "train 1"]
    write_tree(tmp_path / "b", {**files, "train/0.txt": "x", "train/1.txt": "y", "test/0.txt": b"\xff"})
    assert load_dataset(FolderConfig(path=str(tmp_path / "b"))).captions == ["x", "y"]


def test_what_lies_next_to_the_parts_is_counted(tmp_path: Path) -> None:
    write_tree(tmp_path, {"figure.png": png(9), "train/0.png": png(0), "test/0.png": png(1)})
    found = load_dataset(FolderConfig(path=str(tmp_path)))
    assert len(found) == 1 and found.provenance["splits"].endswith("1 outside them left out")


@pytest.mark.parametrize("place", ["x/{}-000.tar", "x/cc3m_{}.0.tar", "x/{}/000.tar", "x/{}-00000-of-00001.tar"])
def test_shards_of_parts(tmp_path: Path, place: str) -> None:
    for seed, part in enumerate(("train", "val", "Test")):
        (tmp_path / place.format(part)).parent.mkdir(parents=True, exist_ok=True)
        write_tar(tmp_path / place.format(part), {f"{part}.png": png(seed)})
    root = str(tmp_path / "x")
    found = load_dataset(source_config_for(root))
    assert len(found) == 1 and is_of(found, 0, 0) and "shards by split: " in found.provenance["splits"]
    assert "classes" not in found.provenance["splits"]
    for part, seed in (("val", 1), ("validation", 1), ("test", 2)):
        assert is_of(load_dataset(source_config_for(root).model_copy(update={"split": part})), 0, seed)
    alone = load_dataset(source_config_for(str(tmp_path / place.format("val"))))  # named itself
    assert is_of(alone, 0, 1) and "splits" not in alone.provenance


PARTS = ["train2017 val2017", "DIV2K_train_HR DIV2K_valid_HR", "Training-Set Test-Set", "train_images test_images"]
NO_PARTS = [
    "train-station test-tube",
    "valid invalid",
    "train tram",
    "train",
    "trains tests",
    "train training",
    "test x",
]


def test_what_names_of_parts_are() -> None:
    assert all(are_splits(names.split()) for names in [*PARTS, "hold-out training", "trainA testA trainB"])
    assert not any(are_splits(names.split()) for names in [*NO_PARTS, "testing-train test"])
    assert split_of("trainer") is None and split_of("protest") is None
