"""FFHQ's numbered folders and archives of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import is_of, png, write_tree, write_zip
from published_sets import ffhq, ffhq_files

from undiffuse.data import Dataset, FfhqConfig, load_dataset, source_config_for
from undiffuse.errors import UsageError

NUMBERS = [*range(8), 1000, 59999, 60000, 69999]


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(FfhqConfig(path=str(path), **{"split": "all", **options}))  # type: ignore[arg-type]


def numbers(found: Dataset) -> list[int]:
    return [int(found.item_name(item).rpartition("/")[2][:5]) for item in range(len(found))]


def test_folders_and_archives_of_every_form(tmp_path: Path) -> None:
    flat = {name.rpartition("/")[2]: content for name, content in ffhq_files().items()}
    numbered = {name.partition("/")[2]: content for name, content in ffhq_files().items()}
    whole = write_tree(tmp_path / "whole", ffhq_files())
    places = [
        whole,
        whole / "thumbnails128x128",
        ffhq(tmp_path),
        write_tree(tmp_path / "ffhq_flat", flat),
        write_zip(tmp_path / "thumbnails128x128.zip", numbered),
    ]
    prints = set()
    for place in places:
        config = source_config_for(str(place))
        assert config.name == "ffhq", place
        found = load_dataset(config)
        assert numbers(found) == NUMBERS[:-2] and found.labels is None and is_of(found, 8, 1000)
        assert "12 of the 70000" in found.provenance["complete"] and "CC BY-NC-SA 4.0" in found.provenance["licence"]
        prints.add(found.fingerprint)
    assert len(prints) == 1


def test_other_numbered_images_are_not_taken_for_ffhq(tmp_path: Path) -> None:
    plain = {name.partition("/")[2]: content for name, content in ffhq_files().items()}
    assert source_config_for(str(write_tree(tmp_path / "mine", plain))).name == "folder"
    assert source_config_for(str(write_zip(tmp_path / "mine.zip", plain))).name == "zip"


def test_the_first_sixty_thousand_are_for_training(tmp_path: Path) -> None:
    path = ffhq(tmp_path)
    assert numbers(load(path, split="train")) == NUMBERS[:-2]
    assert numbers(load(path, split="validation")) == NUMBERS[-2:]
    training = load_dataset(FfhqConfig(path=str(path)))
    assert numbers(training) == NUMBERS[:-2] and numbers(load(path)) == NUMBERS
    assert training.provenance["splits"].startswith("10 of 12 images are for training and are used; data.split=all")
    late = write_zip(tmp_path / "ffhq_late.zip", ffhq_files([69_000, 69_001]))
    assert numbers(load_dataset(FfhqConfig(path=str(late)))) == [69_000, 69_001]
    only = write_zip(tmp_path / "ffhq_few.zip", ffhq_files([1, 2]))
    with pytest.raises(UsageError, match="no image of split=validation"):
        load(only, split="validation")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thumbnails128x128/00000/cat.png", "not an FFHQ image"),
        ("thumbnails128x128/70000/70000.png", "not an FFHQ image"),
        ("thumbnails128x128/00000/01500.png", "is in the wrong folder; expected it in 01000"),
        ("thumbnails128x128/00003.png", "two images with the number 00003"),
    ],
)
def test_what_is_not_of_the_set_is_reported_or_skipped(tmp_path: Path, name: str, message: str) -> None:
    path = write_zip(tmp_path / "ffhq.zip", {**ffhq_files(), name: png(5)})
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}!")
    found = load(path, on_error="skip")
    assert numbers(found) == NUMBERS and "1 file left out" in found.provenance["skipped"]


def test_damaged_images_and_several_sets(tmp_path: Path) -> None:
    files = {**ffhq_files(), "thumbnails128x128/00000/00003.png": png(3)[:50]}
    path = write_zip(tmp_path / "ffhq.zip", files)
    with pytest.raises(UsageError, match=r"00003\.png: "):
        load(path)
    assert 3 not in numbers(load(path, on_error="skip"))
    both = write_tree(tmp_path / "both", {**ffhq_files(), "images1024x1024/00000/00001.png": png(1)})
    with pytest.raises(UsageError, match=r"several sets \(images1024x1024/, thumbnails128x128/\); name the folder"):
        load(both)
    with pytest.raises(UsageError, match="no such file or folder; expected FFHQ's"):
        load(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("nothing")
    with pytest.raises(UsageError, match=r"text\.zip"):
        load(tmp_path / "text.zip")
