"""Lists of labels and captions: what is said twice, in which encoding, and of names that look the same."""

from __future__ import annotations

import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import Content, is_of, jsonl, png, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, ZipConfig, load_dataset, source_config_for
from undiffuse.data.sources.celeba_lists import read_attributes, read_partition
from undiffuse.errors import UsageError

Load = Callable[..., Dataset]
IMAGES: dict[str, Content] = {f"{name}.png": png(place) for place, name in enumerate("abc")}


@pytest.fixture(params=["folder", "zip"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    def from_files(files: dict[str, Content], **options: object) -> Dataset:
        place = tmp_path / f"set{len(list(tmp_path.iterdir()))}.{request.param}"
        if request.param == "folder":
            return load_dataset(FolderConfig(path=str(write_tree(place, files)), **options))  # type: ignore[arg-type]
        return load_dataset(ZipConfig(path=str(write_zip(place, files)), **options))  # type: ignore[arg-type]

    return from_files


def labels_of(dataset: Dataset) -> list[str] | None:
    return None if dataset.labels is None else [dataset.class_names[label] for label in dataset.labels]


def rows(*labels: object) -> list[dict[str, object]]:
    return [{"file_name": f"{name}.png", "label": label} for name, label in zip("abca", labels, strict=False)]


TWICE: dict[str, tuple[Content, str]] = {
    "metadata.jsonl": (jsonl(*rows("cat", "dog", "cat", "dog")), "'cat' in line 1, 'dog' in line 4"),
    "metadata.csv": ("file_name,label\na.png,0\nb.png,0\nc.png,1\n./a.png,1\n", "0 in line 2, 1 in line 5"),
    "dataset.json": (
        '{"labels": [["a.png", 0], ["b.png", 0], ["c.png", 1], ["a.png", 1]]}',
        "0 in entry 1, 1 in entry 4",
    ),
}


@pytest.mark.parametrize("name", sorted(TWICE))
def test_an_image_with_two_labels_is_rejected_with_both_lines(load: Load, name: str) -> None:
    content, both = TWICE[name]
    with pytest.raises(UsageError, match=rf"{name}: gives a\.png two labels: {both}"):
        load({**IMAGES, name: content})
    found = load({**IMAGES, name: content}, on_error="skip")
    assert len(found) == 2 and is_of(found, 0, 1) and both in found.provenance["skipped"]
    again = load({**IMAGES, "metadata.jsonl": jsonl(*rows("cat", "dog", "cat", "cat"))})
    assert labels_of(again) == ["cat", "dog", "cat"]  # said twice alike
    assert load({**IMAGES, name: content}, labels="none").labels is None


def test_one_key_with_two_values_is_rejected(load: Load) -> None:
    with pytest.raises(UsageError, match=r"'a\.png' occurs twice, with 0 and 1"):
        load({**IMAGES, "dataset.json": '{"labels": {"a.png": 0, "b.png": 0, "c.png": 1, "a.png": 1}}'})
    with pytest.raises(UsageError, match=r"line 1: not valid JSON .*'label' occurs twice"):
        load({**IMAGES, "metadata.jsonl": '{"file_name": "a.png", "label": 1, "label": 2}'})


def test_captions_on_several_lines_of_a_list_are_alternatives(load: Load) -> None:
    lines = jsonl(*({"file_name": f"{name}.png", "text": f"{name} {n}"} for n in range(2) for name in "abc"))
    found = load({**IMAGES, "metadata.jsonl": lines})
    assert found.captions == ["a 0\na 1", "b 0\nb 1", "c 0\nc 1"] and "left_out" not in found.provenance
    nearer = load({**IMAGES, "metadata.jsonl": lines, "a.txt": "a 2"})
    assert nearer.captions == ["a 2", "b 0\nb 1", "c 0\nc 1"]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lists_and_captions_in_the_encodings_of_windows(load: Load, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    lines = jsonl(*({"file_name": f"{name}.png", "text": f"Blüte {name}"} for name in "abc"))
    table = "file_name;text\r\n" + "".join(f'{name}.png;"Blüte {name}"\r\n' for name in "abc")
    expected = [f"Blüte {name}" for name in "abc"]
    assert load({**IMAGES, "metadata.jsonl": (mark + lines).encode(encoding)}).captions == expected
    assert load({**IMAGES, "metadata.csv": (mark + table).encode(encoding)}).captions == expected
    notes = {f"{name}.txt": (mark + f"Blüte {name}\n").encode(encoding) for name in "abc"}
    assert load({**IMAGES, **notes}).captions == expected


def test_a_text_that_is_not_what_its_mark_reports_is_reported(load: Load) -> None:
    for name in ("metadata.jsonl", "metadata.csv"):
        with pytest.raises(UsageError, match=rf"{name}: starts with a byte order mark, but is not valid Unicode text"):
            load({**IMAGES, name: b"\xff\xfea\x00b"})


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_metadata_csv(load: Load, delimiter: str) -> None:
    table = [
        ("file_name", "text", "label", "url"),
        ("x/a.png", "one, two; three\nfour", "3", ""),
        ("b.png", "b", "0", ""),
    ]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in table)
    found = load({"x/a.png": png(0), "b.png": png(1), "metadata.csv": text})
    assert found.captions == ["b", "one, two; three four"]
    assert labels_of(found) == ["0", "3"] and found.class_names == ("0", "1", "2", "3")
    names = load({**IMAGES, "metadata.csv": "label,file_name\n7,a.png\ncat,b.png\n7,c.png\n"})
    assert labels_of(names) == ["7", "cat", "7"]
    inner = load({"x/a.png": png(0), "x/metadata.csv": "file_name,text\na.png,inner\n"})
    assert inner.captions == ["inner"]


def test_a_line_of_a_csv_that_is_damaged_is_reported_and_another_table_is_left_alone(load: Load) -> None:
    with pytest.raises(UsageError, match=r"metadata\.csv line 3: 1 values; expected 2: file_name, text"):
        load({**IMAGES, "metadata.csv": "file_name,text\na.png,x\nb.png\nc.png,z\n"})
    with pytest.raises(UsageError, match=r"lists d\.png, but there is no such image"):
        load({**IMAGES, "metadata.csv": "file_name,text\nd.png,x\n"})
    other = load({**IMAGES, "metadata.csv": "id,name\n1,x\n"})
    assert other.captions is None and "metadata.csv" in other.provenance["passed_over"]
    both = load({**IMAGES, "metadata.csv": "file_name,text\na.png,far\nb.png,far\nc.png,far\n",
                 "metadata.jsonl": jsonl({"file_name": "a.png", "text": "near"})})  # fmt: skip
    assert both.captions == ["near", "far", "far"]


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_names_of_lists_and_notes_are_compared_as_they_look(load: Load, listed: str) -> None:
    there = unicodedata.normalize("NFD" if listed == "NFC" else "NFC", "café.png")
    named = unicodedata.normalize(listed, "café.png")
    files: dict[str, Content] = {there: png(0), "x.png": png(1)}
    lines = jsonl({"file_name": named, "text": "c", "label": "u"}, {"file_name": "x.png", "text": "x", "label": "v"})
    found = load({**files, "metadata.jsonl": lines})
    assert found.captions == ["c", "x"] and labels_of(found) == ["u", "v"]
    labels = load({**files, "dataset.json": f'{{"labels": [["{named}", 1], ["x.png", 0]]}}'})
    assert labels_of(labels) == ["1", "0"]
    captioned = load({**files, named[:-4] + ".txt": "c", "x.png.txt": "x"})
    assert captioned.captions == ["c", "x"]


def test_of_two_names_that_look_the_same_the_very_one_is_meant(load: Load) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC")]
    lines = jsonl(*({"file_name": name, "text": f"{place}"} for place, name in enumerate(names)))
    found = load({**{name: png(place) for place, name in enumerate(names)}, "metadata.jsonl": lines})
    assert found.captions == ["0", "1"] and all(is_of(found, item, item) for item in range(2))


def test_classes_are_chosen_by_how_their_names_look(load: Load) -> None:
    apart, composed = (unicodedata.normalize(form, "rosé") for form in ("NFD", "NFC"))
    found = load({f"{apart}/0.png": png(0), "b/1.png": png(1)}, classes=(composed,))
    assert len(found) == 1 and found.class_names == (apart,)


def test_captions_called_after_the_whole_name_of_the_image(load: Load) -> None:
    found = load({**IMAGES, **{f"{name}.png.txt": name for name in "abc"}})
    assert found.captions == ["a", "b", "c"] and "passed_over" not in found.provenance
    with pytest.raises(UsageError, match="an annotation file without an image"):
        load({**IMAGES, **{f"{name}.png.txt": name for name in "abcd"}})


def zip_of_shift_jis(path: Path, flawed: bool = False) -> Path:
    """Names in Shift-JIS, and in UTF-8 in Info-ZIP's field, which has the checksum of the former."""
    names = {"XX/1.png": "犬/1.png", "YY/2.png": "猫/2.png"}
    with zipfile.ZipFile(path, "w") as archive:
        for number, (holder, name) in enumerate(names.items()):
            member = zipfile.ZipInfo(holder)
            utf8_path = struct.pack("<BL", 1, zlib.crc32(name.encode("shift-jis")) ^ flawed) + name.encode()
            member.extra = struct.pack("<HHB", 0x9999, 1, 0) + struct.pack("<HH", 0x7075, len(utf8_path)) + utf8_path
            archive.writestr(member, png(number))
    content = path.read_bytes()
    for holder, name in names.items():
        content = content.replace(holder.encode(), name.encode("shift-jis"))
    path.write_bytes(content)
    return path


def test_names_in_info_zips_unicode_field(tmp_path: Path) -> None:
    found = load_dataset(source_config_for(str(zip_of_shift_jis(tmp_path / "x.zip"))))
    assert found.class_names == ("犬", "猫") and found.item_name(0).endswith("!犬/1.png")
    other = load_dataset(source_config_for(str(zip_of_shift_jis(tmp_path / "y.zip", flawed=True))))
    assert other.class_names == tuple(sorted(name.encode("shift-jis").decode("cp437") for name in "犬猫"))


def test_celebas_lists_as_kaggle_has_them() -> None:
    errors: list[UsageError] = []
    table = b"image_id,Smiling,Young\r\n000001.jpg,1,-1\r\n000002.jpg,-1,1\r\n000001.jpg,-1,-1\r\n"
    found = read_attributes(table, "list_attr_celeba.csv", errors.append)
    assert found.names == ["Smiling", "Young"] and found.caption(0) == "smiling" and found.caption(1) == "young"
    assert [str(error) for error in errors] == ["list_attr_celeba.csv line 4: 000001.jpg is listed twice"]
    parts = read_partition(b"image_id,partition\n000001.jpg,0\n000002.jpg,2\n000001.jpg,1\n", "p.csv", errors.append)
    assert parts == {"000001.jpg": "train", "000002.jpg": "test"}
    assert str(errors[1]) == "p.csv line 4: 000001.jpg is in validation, but in train above"
