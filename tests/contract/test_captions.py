"""Labels and captions of images: in files next to them, in lists, in the names of folders and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from image_files import Content, is_of, jsonl, png, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, ZipConfig, describe, load_dataset, preview_grid
from undiffuse.data.sources.layout.classes import prefix_of
from undiffuse.errors import UsageError

Load = Callable[..., Dataset]
IMAGES: dict[str, Content] = {f"{name}.png": png(place) for place, name in enumerate("abc")}


@pytest.fixture(params=["folder", "zip"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Reads files from a folder or an archive: both know the same conventions."""

    def from_files(files: Mapping[str, Content], **options: object) -> Dataset:
        if request.param == "folder":
            fresh = tmp_path / f"tree{len(list(tmp_path.iterdir()))}"
            config: object = FolderConfig(path=str(write_tree(fresh, files)), **options)  # type: ignore[arg-type]
        else:
            config = ZipConfig(path=str(write_zip(tmp_path / "set.zip", files)), **options)  # type: ignore[arg-type]
        return load_dataset(config)  # type: ignore[arg-type]

    return from_files


def labels_of(dataset: Dataset) -> list[str] | None:
    """The name of each item's class."""
    return None if dataset.labels is None else [dataset.class_names[label] for label in dataset.labels]


def test_text_files_next_to_images_are_captions(load: Load) -> None:
    found = load(
        {**IMAGES, "a.txt": "a red\n rose ", "b.txt": "\ufeffzwei Blüten", "c.TXT": "three", "README.txt": "x"}
    )
    assert found.captions == ["a red\nrose", "zwei Blüten", "three"] and found.labels is None
    assert found.fetch([2, 0]).captions == ("three", "a red\nrose")
    assert load({**IMAGES, "a.txt": "x"}, captions="none").captions is None


def test_json_files_next_to_images_give_captions_and_labels(load: Load) -> None:
    files = {
        "a.json": '{"caption": "one", "label": "rose"}',
        "b.json": '{"prompt": "two", "class": "daisy"}',
        "c.json": '{"text": "three", "caption": null, "class": "rose", "more": [1, {"x": 2}]}',
    }
    found = load({**IMAGES, **files})
    assert found.captions == ["one", "two", "three"]
    assert found.class_names == ("daisy", "rose") and labels_of(found) == ["rose", "daisy", "rose"]
    assert load({**IMAGES, **files}, labels="none").labels is None


def test_escapes_of_two_halves_are_one_character(load: Load) -> None:
    found = load({**IMAGES, **{f"{name}.json": '{"caption": "\\ud83d\\udc36"}' for name in "abc"}})
    assert found.captions == ["🐶"] * 3


def test_metadata_lists_captions_and_labels(load: Load) -> None:
    lines = jsonl(
        {"file_name": "c.png", "text": "third", "label": 2},
        {"file_name": "./a.png", "text": "first", "label": 0, "other": None},
        {"file_name": "b.png", "text": "second", "label": 0},
    )
    found = load({**IMAGES, "metadata.jsonl": lines + "\n\n"})
    assert found.captions == ["first", "second", "third"] and "passed_over" not in found.provenance
    assert found.class_names == ("0", "1", "2") and labels_of(found) == ["0", "0", "2"]


def test_metadata_in_each_folder_is_relative_to_it(load: Load) -> None:
    files = {"x/1.png": png(1), "x/deep/2.png": png(2), "y/1.png": png(3)}
    lists = {
        "x/metadata.jsonl": jsonl({"file_name": "1.png", "text": "x1"}, {"file_name": "deep/2.png", "text": "x2"}),
        "y/metadata.jsonl": jsonl({"file_name": "1.png", "text": "y1"}),
    }
    assert load({**files, **lists}).captions == ["x1", "x2", "y1"]


def test_the_nearest_word_counts(load: Load) -> None:
    lists = {
        "dataset.json": json.dumps({"labels": [[f"{name}.png", 0] for name in "abc"]}),
        "metadata.jsonl": jsonl(*({"file_name": f"{name}.png", "text": "far", "label": 1} for name in "ab")),
        "a.json": '{"text": "near", "label": 2}',
        "b.json": '{"text": "near"}',
        "b.txt": "nearest",
        "c.txt": "alone",
    }
    found = load({**IMAGES, **lists})
    assert found.captions == ["near", "nearest", "alone"] and labels_of(found) == ["2", "1", "0"]


def test_lists_count_before_folders_and_can_be_requested_for(load: Load) -> None:
    files = {"cat/1.png": png(1), "dog/1.png": png(2)}
    lists = {"dataset.json": json.dumps({"labels": [["cat/1.png", 1], ["dog/1.png", 0]]})}
    assert labels_of(load(files)) == ["cat", "dog"]
    assert labels_of(load({**files, **lists})) == ["1", "0"]
    assert labels_of(load({**files, **lists}, labels="metadata")) == ["1", "0"]
    assert labels_of(load({**files, **lists}, labels="folders")) == ["cat", "dog"]


def test_labels_that_are_requested_for_must_be_there(load: Load) -> None:
    with pytest.raises(UsageError, match=r"labels=metadata, but neither dataset\.json"):
        load({"cat/1.png": png(1), "dog/1.png": png(2), "cat/1.txt": "a", "dog/1.txt": "b"}, labels="metadata")


TREE: dict[str, Content] = {
    f"all/{name}.png": png(place) for place, name in enumerate(["g/1/x", "g/1/y", "g/2/x", "l/1/x", "l/3/x"])
}


def test_two_levels_of_folders_are_never_guessed_at(load: Load) -> None:
    guess = load(TREE)
    assert guess.labels is None
    assert guess.provenance["classes_possible"].endswith(
        "gives 2 classes (outer folders), data.labels=leaf 4 (inner folders)"
    )
    assert labels_of(load(TREE, labels="folders")) == ["g", "g", "g", "l", "l"]
    assert labels_of(load(TREE, labels="leaf")) == ["g/1", "g/1", "g/2", "l/1", "l/3"]
    assert labels_of(load({**TREE, "all/g/z.png": png(9)}, labels="leaf")) == ["g/1", "g/1", "g/2", "g", "l/1", "l/3"]


def test_folders_that_number_the_storage_are_no_classes(load: Load) -> None:
    files = {"00000/img00000000.png": png(0), "00001/img00001000.png": png(1)}
    assert load(files).labels is None
    assert labels_of(load(files, labels="folders")) == ["00000", "00001"]
    assert labels_of(load({"0/a.png": png(0), "1/a.png": png(1)})) == ["0", "1"]


def test_a_name_before_its_number_is_a_class(load: Load) -> None:
    names = ["x/cat_001.png", "dog-12.png", "big_red-dog_3.png", "cat_7.png"]
    found = load({name: png(place) for place, name in enumerate(names)}, labels="prefix")
    assert found.class_names == ("big_red-dog", "cat", "dog")
    assert labels_of(found) == ["big_red-dog", "cat", "dog", "cat"]
    assert [prefix_of(name) for name in ("n01_2.JPEG", "a/b_c_00.x.png".replace(".x", ""))] == ["n01", "b_c"]


def test_a_name_without_a_number_is_rejected_or_skipped(load: Load) -> None:
    files = {"cat_1.png": png(0), "cat.png": png(1), "1.png": png(2)}
    with pytest.raises(UsageError, match=r"1\.png: data\.labels=prefix expects a name such as cat_001\.png"):
        load(files, labels="prefix")
    found = load(files, labels="prefix", on_error="skip")
    assert labels_of(found) == ["cat"] and found.provenance["skipped"].startswith("2 files left out")


BAD: dict[str, tuple[dict[str, Content], str]] = {
    "no label": ({"metadata.jsonl": jsonl({"file_name": "a.png", "label": 1}, {"file_name": "b.png", "label": 1})},
                 r"c\.png: has no label though others have one"),
    "no text": ({"a.txt": "x", "b.txt": "y", "c.txt": b"\xff\xfe\xff"}, r"c\.txt: not UTF-8"),
    "no JSON": ({"a.json": "{}", "b.json": "{}", "c.json": "{'x': 1}"}, r"c\.json: not valid JSON"),
    "deep JSON": ({"c.json": "[" * 100_000}, r"c\.json: its JSON is nested too deep"),
    "half a character": ({"c.json": '{"caption": "\\ud83d"}'}, r"c\.json: not UTF-8 text, or with an unpaired"),
    "half a class": ({"c.json": '{"label": "\\uDC00"}'}, r"c\.json: not UTF-8 text, or with an unpaired surrogate"),
    "a list": ({"c.json": "[1]"}, r"c\.json: holds a list; expected an object"),
    "list with a number": ({"c.json": '{"captions": ["x", 3]}'}, r"c\.json: a caption in its list is a number"),
    "caption of numbers": ({"c.json": '{"caption": 3}'}, r"c\.json: its caption is a number"),
    "vector": ({"c.json": '{"label": [0.1, 0.9]}'}, r"c\.json: its label \[0.1, 0.9\] is not a class"),
    "negative": ({"c.json": '{"label": -1}'}, r"c\.json: its label -1 is not a class"),
    "huge": ({"c.json": '{"label": 1000000000000}'}, r"label 1000000000000 is not a class; expected a number in 0\.\."),
    "truth": ({"c.json": '{"label": true}'}, r"its label True is not a class"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_notes_are_named_in_one_line_or_cost_their_image(load: Load, kind: str) -> None:
    notes, message = BAD[kind]
    with pytest.raises(UsageError, match=message) as caught:
        load({**IMAGES, **notes})
    assert "\n" not in str(caught.value) and "on_error=skip" in str(caught.value)
    found = load({**IMAGES, **notes}, on_error="skip")
    assert len(found) == 2 and is_of(found, 0, 0) and is_of(found, 1, 1)
    assert found.provenance["skipped"].startswith("1 file left out")


def test_names_and_numbers_do_not_mix(load: Load) -> None:
    notes = {"a.json": '{"label": 3}', "b.json": '{"label": "cat"}', "c.json": '{"label": 0}'}
    with pytest.raises(UsageError, match=r"b\.json: its label 'cat' is a name, but that of .*a\.json a number"):
        load({**IMAGES, **notes})


ORPHANS: dict[str, tuple[dict[str, Content], str]] = {
    "text": ({"d.txt": "x"}, r"d\.txt: an annotation file without an image"),
    "line": ({"metadata.jsonl": jsonl({"file_name": "d.png", "text": "x"})}, r"lists d\.png, but there is no such"),
    "way out": ({"metadata.jsonl": jsonl({"file_name": "../d.png"})}, r"line 1: '\.\./d\.png' leads out"),
    "absolute": ({"metadata.jsonl": jsonl({"file_name": "/etc/d.png"})}, r"line 1: '/etc/d\.png' leads out"),
    "no name": ({"metadata.jsonl": jsonl({"text": "x"})}, r"metadata\.jsonl line 1: names no image"),
    "no JSON": ({"metadata.jsonl": "file_name,text\n"}, r"metadata\.jsonl line 1: not valid JSON"),
    "label": ({"dataset.json": '{"labels": [["d.png", 1]]}'}, r"dataset\.json: lists d\.png, but there is no such"),
}


@pytest.mark.parametrize("kind", sorted(ORPHANS))
def test_notes_without_a_image_are_rejected_or_counted(load: Load, kind: str) -> None:
    captions = {f"{name}.txt": name for name in "abc"}
    notes, message = ORPHANS[kind]
    with pytest.raises(UsageError, match=message):
        load({**IMAGES, **captions, **notes})
    found = load({**IMAGES, **captions, **notes}, on_error="skip")
    assert found.captions == ["a", "b", "c"] and found.provenance["skipped"].startswith("1 file left out")


def test_texts_and_tables_that_are_no_captions_are_passed_over(load: Load) -> None:
    found = load({**IMAGES, "notes.txt": "about", "list.json": "[1]", "sub/x.txt": "y"})
    assert found.captions is None and found.provenance["passed_over"].startswith("3 files without")
    captions = {f"{name}.txt": name for name in "abc"}
    others = {"LICENSE.txt": "free", "sub/x.txt": "elsewhere", "metadata.json": "{"}
    assert load({**IMAGES, **captions, **others}).captions == ["a", "b", "c"]


def test_dataset_json_of_the_stylegan_tools(load: Load) -> None:
    files = {f"0000{i // 2}/img0000000{i}.png": png(i) for i in range(4)}
    labels = [[name, place % 3] for place, name in enumerate(files)]
    found = load({**files, "dataset.json": json.dumps({"labels": labels})})
    assert labels_of(found) == ["0", "1", "2", "0"] and is_of(found, 2, 2)
    named = load({**files, "dataset.json": json.dumps({"labels": labels, "class_names": ["x", "y", "z", "unused"]})})
    assert named.class_names == ("x", "y", "z", "unused") and labels_of(named) == ["x", "y", "z", "x"]
    with pytest.raises(UsageError, match=r"label 2, but only 2 class names"):
        load({**files, "dataset.json": json.dumps({"labels": labels, "class_names": ["x", "y"]})})
    assert load({"x/1.png": png(0), "y/1.png": png(1), "dataset.json": '{"labels": null}'}).labels is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": [["a.png", [0.5, 0.5]]]}', r"a\.png: its label \[0\.5, 0\.5\] is not a class; expected one whole"),
        ('{"labels": [["a.png", 0.5]]}', r"a\.png: its label 0\.5 is not a class"),
        ('{"labels": [["a.png"]]}', r'dataset\.json: its labels are not of the form \[\["name\.png", 3\]'),
        ('{"labels": 3}', "are not of the form"),
        ('{"labels": [["../a.png", 3]]}', "leads out of its folder"),
        ('{"labels": null, "class_names": "x"}', "class_names are not a list"),
        ("", r"dataset\.json: not valid JSON"),
    ],
)
def test_a_damaged_dataset_json(load: Load, content: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load({**IMAGES, "dataset.json": content})
    assert "\n" not in str(caught.value)


def test_a_json_file_of_another_kind_called_dataset_is_passed_over(load: Load) -> None:
    assert load({**IMAGES, "dataset.json": '{"title": "flowers"}'}).labels is None
    assert load({**IMAGES, "dataset.json": "[]"}).labels is None


def test_captions_are_described_and_listed_below_the_sheet(load: Load) -> None:
    plain, captioned = load(IMAGES), load({**IMAGES, **{f"{name}.txt": f"image {name}" for name in "abc"}})
    assert describe(captioned, FolderConfig(path="x"))["captions"] == ["image a", "image b", "image c"]
    assert describe(plain, FolderConfig(path="x"))["captions"] == []
    assert preview_grid(captioned).height > preview_grid(plain).height + 20
