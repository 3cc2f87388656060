"""CelebA and CelebA-HQ: faces in folders and archives, with the lists in them or next to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import write_tree, write_zip
from published_sets import ATTRIBUTES, COUNT, celeba, celeba_files, encoded

from undiffuse.data import CelebaConfig, Dataset, load_dataset, source_config_for
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(CelebaConfig(path=str(path), **{"split": "all", **options}))  # type: ignore[arg-type]


def labels_of(found: Dataset) -> list[int]:
    assert found.labels is not None
    return found.labels.tolist()


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    files = celeba_files()
    text = files[name]
    assert isinstance(text, str) and old in text
    return write_tree(folder, {**files, name: text.replace(old, new, 1)})


def test_attributes_are_classes_and_captions(tmp_path: Path) -> None:
    config = source_config_for(str(celeba(tmp_path)))
    assert config.name == "celeba"
    found = load_dataset(config.model_copy(update={"split": "all"}))
    assert len(found) == COUNT and found.labels is None and found.shape == (3, 8, 8)
    assert found.captions is not None
    assert [found.captions[item] for item in (0, 1, 6)] == [
        "no attributes",
        "5 o clock shadow",
        "eyeglasses, smiling",
    ]
    smiling = load(tmp_path, attribute="smiling", captions="none")
    assert smiling.class_names == ("not Smiling", "Smiling") and smiling.captions is None
    assert labels_of(smiling) == [number >> 2 & 1 for number in range(COUNT)]
    assert load(tmp_path, attribute="Smiling", labels="none").labels is None
    assert labels_of(load(tmp_path, attribute="5 o clock shadow")) == [number & 1 for number in range(COUNT)]


def test_the_lists_lie_in_or_next_to_a_folder_or_an_archive(tmp_path: Path) -> None:
    files = celeba_files()
    inside = write_zip(tmp_path / "whole.zip", files)
    lists = {name: content for name, content in files.items() if name.endswith(".txt")}
    images = {name: content for name, content in files.items() if name.endswith(".jpg")}
    write_tree(tmp_path / "a", lists), write_zip(tmp_path / "a" / "img_align_celeba.zip", images)
    celeba(tmp_path / "b")
    write_tree(tmp_path / "c" / "Anno", lists), write_tree(tmp_path / "c" / "Img", images)
    every = [inside, tmp_path / "a" / "img_align_celeba.zip", tmp_path / "b", tmp_path / "b" / "img_align_celeba"]
    prints = set()
    for path in every:
        config = source_config_for(str(path))
        assert config.name == "celeba", path
        prints.add(load_dataset(config.model_copy(update={"split": "all"})).fingerprint)
    assert len(prints) == 1 and load(tmp_path / "c").fingerprint in prints
    assert load(every[1], attribute="Young", split="test").num_classes == 2


def test_the_split_of_the_partition(tmp_path: Path) -> None:
    celeba(tmp_path)
    for place, split in enumerate(("train", "validation", "test")):
        found = load(tmp_path, split=split)
        assert [found.item_name(n)[-10:-4] for n in range(4)] == [f"{n + 1:06}" for n in range(place, COUNT, 3)]
    training = load_dataset(CelebaConfig(path=str(tmp_path)))
    assert training.fingerprint == load(tmp_path, split="train").fingerprint
    assert training.provenance["splits"].startswith("4 of 12 images are for training and are used; data.split=all")
    assert len(load(tmp_path)) == COUNT and "splits" not in load(tmp_path, split="train").provenance
    (tmp_path / "list_eval_partition.txt").unlink()
    assert len(load_dataset(CelebaConfig(path=str(tmp_path)))) == COUNT
    with pytest.raises(UsageError, match=r"split=test, but there is no list_eval_partition\.txt \(or \.csv\)"):
        load(tmp_path, split="test")


def test_celeba_hq_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"CelebA-HQ-img/{n}.jpg": encoded(2 * n + 1, "jpeg") for n in range(COUNT)}
    files["CelebAMask-HQ-mask-anno/0/00000_hair.png"] = encoded(1, "png")
    rows = [f"{n}.jpg  " + " ".join("1" if n % 2 else "-1" for _ in range(4)) for n in range(COUNT)]
    files["CelebAMask-HQ-attribute-anno.txt"] = "\n".join([str(COUNT), " ".join(ATTRIBUTES), *rows])
    write_tree(tmp_path / "CelebAMask-HQ", files)
    config = source_config_for(str(tmp_path / "CelebAMask-HQ"))
    assert config.name == "celeba"
    found = load(tmp_path / "CelebAMask-HQ", attribute="Young")
    assert [Path(found.item_name(n)).stem for n in range(COUNT)] == [str(n) for n in range(COUNT)]
    assert labels_of(found) == [n % 2 for n in range(COUNT)]
    assert source_config_for(str(tmp_path / "CelebAMask-HQ" / "CelebA-HQ-img")).name == "celeba"


def test_an_attribute_that_is_not_there_is_reported(tmp_path: Path) -> None:
    celeba(tmp_path)
    with pytest.raises(UsageError, match="no attribute 'Smile'; did you mean 'Smiling'"):
        load(tmp_path, attribute="Smile")
    (tmp_path / "list_attr_celeba.txt").unlink()
    with pytest.raises(UsageError, match=r"attribute=Smiling, but neither list_attr_celeba\.txt nor"):
        load(tmp_path, attribute="Smiling")
    assert load(tmp_path).captions is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("12\n", "twelve\n", "starts with 'twelve'"),
        ("12\n", "13\n", "12 faces, but its first line states 13"),
        ("12\n", "", "starts with '5_o_Clock_Shadow"),
    ],
)
def test_a_damaged_list_is_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, "list_attr_celeba.txt", old, new)
    with pytest.raises(UsageError, match=message) as caught:
        load(path, on_error="skip")
    assert str(caught.value).startswith(str(path / "list_attr_celeba.txt"))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "000004.jpg   1 ", "000004.jpg ", "line 6: expected a file and 1 or -1"),
        ("list_attr_celeba.txt", "000004.jpg   1", "000004.jpg   7", "line 6: expected a file and 1 or -1"),
        ("list_attr_celeba.txt", "000004.jpg", "000003.jpg", r"line 6: 000003\.jpg is listed twice"),
        ("list_eval_partition.txt", "000004.jpg 0", "000004.jpg 3", "line 4: expected a file and 0"),
        ("list_eval_partition.txt", "000004.jpg 0\n", "", r"000004\.jpg: not in list_eval_partition"),
    ],
)
def test_a_damaged_line_is_reported_or_its_image_skipped(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = changed(tmp_path, name, old, new)
    with pytest.raises(UsageError, match=message):
        load(path, split="train")
    found = load(path, split="train", on_error="skip")
    assert len(found) == 3 and "left out" in found.provenance["skipped"]
    assert not any("000004" in found.item_name(item) for item in range(3))


def test_images_without_lines_and_lines_without_images(tmp_path: Path) -> None:
    celeba(tmp_path)
    (tmp_path / "img_align_celeba" / "000002.jpg").rename(tmp_path / "img_align_celeba" / "000099.jpg")
    with pytest.raises(UsageError, match=r"000099\.jpg: not in the list of attributes"):
        load(tmp_path)
    found = load(tmp_path, on_error="skip")
    assert len(found) == COUNT - 1 and "names 000002.jpg, which is missing" in found.provenance["skipped"]
    (tmp_path / "img_align_celeba" / "000003.jpg").write_bytes(b"\xff\xd8\xff")
    assert len(load(tmp_path, on_error="skip")) == COUNT - 2


def test_two_sets_in_one_folder_are_not_guessed_at(tmp_path: Path) -> None:
    files = celeba_files()
    files["img_celeba/000001.jpg"] = encoded(1, "jpeg")
    with pytest.raises(UsageError, match="have the same number; name the folder of one"):
        load(write_tree(tmp_path / "two", files))
    with pytest.raises(UsageError, match="no CelebA images"):
        load(write_tree(tmp_path / "other", {"cat.png": encoded(1, "png")}))


def test_a_kept_set_follows_the_lists_next_to_it(tmp_path: Path) -> None:
    files = celeba_files()
    write_tree(tmp_path / "a", {name: content for name, content in files.items() if name.endswith(".txt")})
    images = {name: content for name, content in files.items() if name.endswith(".jpg")}
    path, options = write_zip(tmp_path / "a" / "img_align_celeba.zip", images), {"cache": str(tmp_path / "kept")}
    before = labels_of(load(path, attribute="Smiling", **options))
    listed = tmp_path / "a" / "list_attr_celeba.txt"
    heading, *rows = [line.split() for line in listed.read_text().splitlines()[1:]]
    opposite = [[row[0], *(str(-int(value)) for value in row[1:])] for row in rows]
    listed.write_text("".join(" ".join(line) + "\n" for line in [[str(COUNT)], heading, *opposite]))
    after = labels_of(load(path, attribute="Smiling", **options))
    assert after == labels_of(load(path, attribute="Smiling")) != before
