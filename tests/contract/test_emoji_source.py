"""Emoji packages: names as captions, categories as classes, tones of skin, vendors, and what is wrong with them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from image_files import is_of, write_tree, write_zip
from PIL import Image
from published_sets import COUNT, as_package, emoji, emoji_files, emoji_list

from undiffuse.data import Dataset, EmojiConfig, load_dataset, source_config_for
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(EmojiConfig(path=str(path), **options))  # type: ignore[arg-type]


def captions(found: Dataset) -> list[str]:
    assert found.captions is not None
    return list(found.captions)


def test_names_and_categories_of_the_base_images(tmp_path: Path) -> None:
    config = source_config_for(str(emoji(tmp_path)))
    assert config.name == "emoji"
    found = load_dataset(config)
    assert len(found) == COUNT and all(is_of(found, item, item) for item in range(COUNT))
    assert captions(found) == [f"smiling face no. {number}" for number in range(COUNT)]
    assert found.class_names == ("Smileys & Emotion", "Symbols") and found.labels is not None
    assert found.labels.tolist() == [number % 2 for number in range(COUNT)]
    assert found.provenance["skin_tones"] == "base: 2 of 14 images left out" and found.provenance["vendor"] == "twitter"
    bare = load(tmp_path / "emoji.zip", labels="none", captions="none")
    assert bare.labels is None and bare.captions is None


def test_tones_of_skin_are_reported_in_the_caption(tmp_path: Path) -> None:
    found = load(emoji(tmp_path), skin_tones="all")
    assert len(found) == COUNT + 2 and found.provenance["skin_tones"] == "all: 0 of 14 images left out"
    assert captions(found)[:4] == [
        "smiling face no. 0",
        "smiling face no. 0, light skin tone",
        "smiling face no. 0, light and dark skin tone",
        "smiling face no. 1",
    ]
    assert is_of(found, 1, COUNT) and is_of(found, 2, COUNT + 1) and is_of(found, 3, 1)


def test_a_folder_a_zip_and_the_tar_of_npm_are_the_same_set(tmp_path: Path) -> None:
    packed = as_package(tmp_path / "emoji-datasource-twitter-16.0.0.tgz", emoji_files())
    places = [emoji(tmp_path), packed, write_tree(tmp_path / "plain", emoji_files())]
    places.append(write_tree(tmp_path / "npm", {f"package/{name}": text for name, text in emoji_files().items()}))
    assert {source_config_for(str(place)).name for place in places} == {"emoji"}
    assert len({load(place).fingerprint for place in places}) == 1
    packed.write_bytes(packed.read_bytes()[:-300])
    with pytest.raises(UsageError, match="damaged or cut short"):
        load_dataset(source_config_for(str(packed)))


def test_one_of_several_vendors_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "two.zip", {**emoji_files("google"), **emoji_files("twitter")})
    with pytest.raises(UsageError, match="has images of google, twitter; choose one with vendor="):
        load(path)
    assert len(load(path, vendor="twitter")) == COUNT and len(load(path, vendor="google")) == COUNT + 1
    with pytest.raises(UsageError, match="no images of vendor=twiter; did you mean 'twitter'"):
        load(path, vendor="twiter")


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(content := io.BytesIO(), "png")
    files = {**emoji_files(), "img/twitter/64/1f600.png": content.getvalue()}
    path = write_zip(tmp_path / "emoji.zip", files)
    assert load(path).items(np.array([0])).min() == 255
    assert load(path, background=(1, 2, 3)).items(np.array([0]))[0, :, 4, 4].tolist() == [1, 2, 3]


def test_the_largest_images_are_taken(tmp_path: Path) -> None:
    files = emoji_files()
    small = {name.replace("/64/", "/16/"): b"never read" for name in files if name.startswith("img/")}
    found = load(write_zip(tmp_path / "emoji.zip", {**small, **files}))
    assert len(found) == COUNT and is_of(found, 3, 3)


def test_missing_and_damaged_images_are_reported_or_skipped(tmp_path: Path) -> None:
    files = emoji_files()
    lacking = {name: content for name, content in files.items() if not name.endswith("1f603.png")}
    path = write_zip(tmp_path / "a.zip", lacking)
    with pytest.raises(UsageError, match=r"emoji\.json lists 1f603\.png for twitter, but it is missing"):
        load(path)
    assert captions(load(path, on_error="skip")) == [f"smiling face no. {n}" for n in range(COUNT) if n != 3]
    damaged = write_zip(tmp_path / "b.zip", {**files, "img/twitter/64/1f604.png": b"\x89PNG"})
    with pytest.raises(UsageError, match=r"b\.zip!img/twitter/64/1f604\.png: "):
        load(damaged)
    assert len(load(damaged, on_error="skip")) == COUNT - 1
    more = write_zip(tmp_path / "c.zip", {**files, "img/twitter/64/ffff.png": b""})
    assert load(more).provenance["left_out"].startswith("1 image not of the data set: img/twitter/64/ffff.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "not a list of emoji"),
        ("[" * 100_000, "nested too deep|not valid JSON"),
    ],
)
def test_a_list_of_another_form_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = write_zip(tmp_path / "emoji.zip", {**emoji_files(), "emoji.json": text})
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}!emoji.json")


@pytest.mark.parametrize("change", [{"name": 3}, {"category": None}, {"image": ""}, {"skin_variations": {"x": {}}}])
def test_an_entry_of_another_form_is_reported_or_skipped(tmp_path: Path, change: dict[str, object]) -> None:
    entries = emoji_list()
    entries[2] |= change
    path = write_zip(tmp_path / "emoji.zip", {**emoji_files(), "emoji.json": json.dumps([*entries, 7])})
    with pytest.raises(UsageError, match="entry 2 is not an emoji"):
        load(path)
    found = load(path, on_error="skip")
    assert len(found) == COUNT - 1 and "2 files left out" in found.provenance["skipped"]


def test_what_is_no_package_is_reported(tmp_path: Path) -> None:
    files = emoji_files()
    no_list = {name: content for name, content in files.items() if name != "emoji.json"}
    with pytest.raises(UsageError, match=r"no emoji\.json; expected the whole"):
        load(write_zip(tmp_path / "a.zip", no_list))
    with pytest.raises(UsageError, match="no emoji images"):
        load(write_zip(tmp_path / "b.zip", {"emoji.json": files["emoji.json"]}))
    outside = write_zip(tmp_path / "c.zip", {**files, "../img/twitter/64/1f699.png": b"x"})
    with pytest.raises(UsageError, match="leads out of the archive"):
        load(outside)
    assert len(load(outside, on_error="skip")) == COUNT


@pytest.mark.parametrize("vendor", ["twitter", "google"])
def test_real_emoji(shared_data: Path, vendor: str) -> None:
    config = source_config_for(str(shared_data / "emoji" / f"emoji-datasource-{vendor}-64px.zip"))
    found = load_dataset(config)
    assert len(found) == 1911 and found.shape == (3, 64, 64) and found.num_classes == 10
    assert "smiling face with open mouth" in captions(found)
    assert "1875 of 3786" in found.provenance["skin_tones"]
