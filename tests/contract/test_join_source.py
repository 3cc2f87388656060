"""Several sets of images of the same things as one: parts, names, captions, and the split by name."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from image_files import Content, is_of, jsonl, png, write_tree, write_zip
from published_sets import emoji_files
from pydantic import ValidationError

from undiffuse.api.configuration.sources import configured
from undiffuse.data import (
    Dataset,
    FolderConfig,
    JoinConfig,
    ZipConfig,
    load_dataset,
    source_config_for,
    split_by_content,
)
from undiffuse.data.prepare.run import prepare
from undiffuse.errors import UsageError

THINGS = ("rose", "red tulip", "oak")


def parts(root: Path, files: Mapping[str, Content] | None = None) -> Path:
    """A folder of oil paintings, with captions, an archive of photographs, and a list of names."""
    oil = {f"oil/{thing.replace(' ', '_')}.png": png(seed) for seed, thing in enumerate(THINGS)}
    write_tree(root, {**oil, "oil/notes.md": "x", ".hidden/x.png": png(9), **(files or {})})
    write_zip(
        root / "photo.zip",
        {f"{thing.replace(' ', '-')}-final.png": png(10 + seed) for seed, thing in enumerate(THINGS)},
    )
    return root


def load(root: Path, **options: object) -> Dataset:
    return load_dataset(JoinConfig(path=str(root), **options))  # type: ignore[arg-type]


def test_every_folder_and_archive_is_a_part_and_a_class(tmp_path: Path) -> None:
    found = load(parts(tmp_path), ignored_words="final")
    assert (
        found.class_names == ("oil", "photo")
        and found.labels is not None
        and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    )
    assert found.captions == [f"{thing}, {part}" for part in ("oil", "photo") for thing in ("oak", "red tulip", "rose")]
    assert is_of(found, 0, 2) and is_of(found, 3, 12) and found.item_name(3) == f"{tmp_path}/photo.zip!oak-final.png"
    assert found.provenance["parts"] == "oil: 3 images of 3; photo: 3 images of 3"
    assert found.provenance["names"] == "3 different" and "left_out" not in found.provenance
    bare = load(tmp_path, labels="none", captions="none")
    assert bare.labels is None and bare.captions is None


def test_parts_are_selected_and_named_and_captions_follow_the_templates(tmp_path: Path) -> None:
    captions = {"oil/rose.txt": "a rose\na flower", "oil/oak.txt": "an oak"}
    config = source_config_for(f"join:{parts(tmp_path, captions)}")
    options = ["parts=painted=oil,photographed=photo.zip", 'templates=["a {part} image of {name}", "{name}"]']
    found = load_dataset(configured(config, [f"data.{option}" for option in options]))
    assert found.captions is not None and found.class_names == ("painted", "photographed")
    assert found.captions[0] == "a painted image of an oak\nan oak"
    assert found.captions[1] == "a painted image of red tulip\nred tulip"  # without a caption, named after its file
    assert found.captions[2] == "a painted image of a rose\na painted image of a flower\na rose\na flower"
    only = load(tmp_path, parts={"p": "photo.zip"})
    assert len(only) == 3 and only.class_names == ("p",)


LISTS: dict[str, str] = {
    "names.json": json.dumps(
        [{"stem": "rose", "label": "Rose", "tags": ["flower", "red"]}, {"key": "OAK", "name": "oak tree"}]
    ),
    "names.jsonl": jsonl(
        {"file": "rose", "name": "Rose", "keywords": ["flower", "red"]}, {"id": "oak", "name": "oak tree"}
    ),
    "names.csv": 'file_name,name,tags\nrose.png,Rose,"flower, red"\noak.png,oak tree,\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_gives_names_and_tags_and_leaves_out_other_images(tmp_path: Path, name: str) -> None:
    root = parts(tmp_path, {name: LISTS[name]})
    found = load(root, names=name, ignored_words=["final"], templates=["{name}, {part}", "{tags}"])
    assert found.captions == ["oak tree, oil", "Rose, oil\nflower, red", "oak tree, photo", "Rose, photo\nflower, red"]
    assert found.provenance["left_out"].startswith("2 images that are not in the list of names: ")
    assert "photo.zip!red-tulip-final.png" in found.provenance["left_out"]


def test_emoji_are_matched_by_code_point_or_caption(tmp_path: Path) -> None:
    entries = [{"hexcode": f"{0x1F600 + n:X}-FE0F", "label": f"face {n}", "tags": [f"tag{n}"]} for n in range(8)]
    write_zip(tmp_path / "twitter.zip", emoji_files())
    flat = {
        "a.png": png(50),
        "b.png": png(51),
        "metadata.jsonl": jsonl({"file_name": "a.png", "text": "Face 3"}, {"file_name": "b.png", "text": "face 99"}),
    }
    write_tree(
        tmp_path, {"emojibase.json": json.dumps(entries), **{f"flat/{name}": content for name, content in flat.items()}}
    )
    found = load(tmp_path, names="emojibase.json", templates=["a {part} style emoji of {name}", "{tags}"])
    assert found.captions is not None and found.captions[0] == "a flat style emoji of face 3\ntag3"
    assert list(found.captions[1:]) == [f"a twitter style emoji of face {n}\ntag{n}" for n in range(8)]


def many(root: Path) -> Path:
    for part in ("a", "b"):
        names = [f"thing {n}" for n in range(60)]
        write_tree(root, {f"{part}/{name}.png": png(zlib.crc32((part + name).encode())) for name in names})
    return root


def sides(dataset: Dataset) -> list[set[str]]:
    return [{text.rpartition(",")[0] for text in part.captions or ()} for part in split_by_content(dataset, 0.3)]


def test_all_images_of_a_name_are_in_the_same_split(tmp_path: Path) -> None:
    found = load(many(tmp_path / "x"))
    train, held_out = sides(found)
    assert not train & held_out and len(train | held_out) == 60 and 8 <= len(held_out) <= 28
    assert sides(load(tmp_path / "x", parts="b=b"))[1] == held_out  # also in a set of one part
    apart = load_dataset(FolderConfig(path=str(tmp_path / "x"), class_captions="{}"))
    halves = [
        {name.rpartition("/")[2] for name in map(part.item_name, range(len(part)))}
        for part in split_by_content(apart, 0.3)
    ]
    assert halves[0] & halves[1]  # as a plain folder, a name may be on both sides
    prepare(JoinConfig(path=str(tmp_path / "x")), tmp_path / "out.zip", workers=1)
    prepared = load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert sides(prepared) == [train, held_out] and len(prepared) == 120
    assert len({bytes(row) for row in found.hashes()}) == 120 and np.array_equal(
        found.hashes(), load(tmp_path / "x").hashes()
    )


BAD: dict[str, tuple[dict[str, object], str]] = {
    "no folder": ({"path": "nowhere"}, r"nowhere: no such folder; expected the folder of the parts"),
    "a file": ({"path": "photo.zip"}, r"photo\.zip: a file; expected the folder"),
    "no part": ({"parts": "x=y.zip"}, r"y\.zip: no such file or folder; expected the part 'x' of data\.parts"),
    "no parts": ({"path": "oil"}, r"oil: no sub-folders or archives"),
    "arrays": ({"parts": "x=set.npz"}, r"set\.npz: a source 'arrays'; expected a folder, archive or table"),
    "no list": ({"names": "none.json"}, r"none\.json: cannot be read"),
    "no entries": ({"names": "empty.json"}, r"empty\.json: no entries"),
    "no JSON": ({"names": "broken.json"}, r"broken\.json: not valid JSON"),
    "no names": ({"names": "numbers.json"}, r"numbers\.json entry 1: no name or no tags"),
    "a list of texts": ({"names": "texts.json"}, r"texts\.json entry 1: not an object"),
    "of others": ({"names": "others.json"}, r"no image is in the list others\.json; its keys must be file names"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_parts_and_lists_are_named_in_one_line(tmp_path: Path, kind: str) -> None:
    lists = {
        "empty": "[]",
        "broken": "[",
        "numbers": '[{"key": 3, "name": 3}]',
        "texts": '["x"]',
        "others": '[{"name": "x"}]',
    }
    root = parts(tmp_path, {f"{name}.json": text for name, text in lists.items()})
    np.savez(root / "set.npz", images=np.zeros((4, 8, 8), np.uint8))
    options, message = BAD[kind]
    with pytest.raises(UsageError, match=message) as caught:
        load(**{"root": root / str(options.pop("path", "")), **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"templates": ["{style}"]}, "a template has places for {part}, {name}, {tags}"),
        ({"templates": ["{name"]}, "a template has places"),
        ({"templates": []}, "at least 1 item"),
        ({"parts": "oil"}, "expected NAME=PATH of each part"),
    ],
)
def test_bad_options_are_rejected_before_reading(option: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JoinConfig(path="x", **option)  # type: ignore[arg-type]
