"""Tar shards as WebDataset has them: samples, patterns, and every way a shard may be damaged."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import Content, is_of, png, write_tar

from undiffuse.data import Dataset, TarConfig, load_dataset, source_config_for
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.tar_index import read_members
from undiffuse.data.sources.layout.tar_files import find_shards
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(TarConfig(path=str(path), **options))  # type: ignore[arg-type]


def samples(first: int, count: int, prefix: str = "") -> dict[str, Content]:
    """Members of samples with class and caption."""
    files: dict[str, Content] = {}
    for number in range(first, first + count):
        key = f"{prefix}{number:06}"
        files |= {f"{key}.cls": str(number % 3), f"{key}.png": png(number), f"{key}.txt": f"number {number}\n"}
    return files


def name_of(dataset: Dataset, item: int) -> str:
    return dataset.item_name(item).rpartition("/")[2]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_images_classes_and_captions_of_a_shard(tmp_path: Path, form: int, ending: str) -> None:
    found = load(write_tar(tmp_path / f"x.{ending}", samples(0, 5), form))
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 0, 1]
    assert found.captions == [f"number {item}" for item in range(5)] and found.class_names == ("0", "1", "2")
    assert (
        all(is_of(found, item, item) for item in range(5)) and found.item_name(4) == f"{tmp_path}/x.{ending}!000004.png"
    )
    plain = load(tmp_path / f"x.{ending}", labels="none", captions="none")
    assert plain.labels is None and plain.captions is None


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_in_other_scripts(tmp_path: Path, form: int) -> None:
    names = ["a" * 90 + "/" + "b" * 120 + ".png", "рис.png", "c/" * 60 + "d.png"]
    found = load(
        write_tar(tmp_path / "x.tar", {name: png(place) for place, name in enumerate(names)}, form), labels="none"
    )
    assert [found.item_name(item).partition("!")[2] for item in range(3)] == names


def test_the_index_agrees_with_tarfile(tmp_path: Path) -> None:
    files = {**samples(0, 3), "p" * 80 + "/" + "q" * 90 + ".txt": "x" * 1025, "empty.txt": ""}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / "x.tar", files, form)
        with tarfile.open(path) as archive:
            expected = [(member.name, member.offset_data, member.size) for member in archive]
        assert [(member.name, member.offset, member.size) for member in read_members(FileAt(path))] == expected


def test_json_names_and_several_conventions(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        "./s/1.jpg": png(0),
        "./s/1.json": json.dumps({"caption": "far", "label": "cat"}),
        "./s/1.txt": "near",
        "./s/2.json": json.dumps({"caption": "two", "class": "dog", "url": "http://x"}),
        "./s/2.png": png(1),
        "./s/3.seg.png": png(9),
        "./s/3.png": png(2),
        "./s/3.cls": "owl",
        "./s/3.json": json.dumps({"text": "three", "label": "cat"}),
        "./s/4.v1.png": png(3),
        "./s/4.cls": "cat",
        "./s/4.txt": "four",
        "./s/4.mp3": "",
    }
    found = load(write_tar(tmp_path / "x.tar", files))
    assert found.captions == ["near", "two", "three", "four"] and found.class_names == ("cat", "dog", "owl")
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 0]
    assert all(is_of(found, item, item) for item in range(4)) and found.provenance["left_out"].count("1 ") == 1


def test_shards_of_a_folder_a_pattern_and_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(12):
        write_tar(tmp_path / f"x-{shard:02}.tar", samples(2 * shard, 2))
    write_tar(tmp_path / "other.tar.gz", samples(90, 1))
    held = load(tmp_path, size=64, upscale=True)
    assert len(held) == 25 and len(load(tmp_path / "x-*.tar")) == 24 and len(load(tmp_path / "x-0[12].tar")) == 4
    found = load(tmp_path / "x-{08..11}.tar")
    assert found.captions == [f"number {item}" for item in range(16, 24)]
    assert found.item_name(7) == f"{tmp_path}/x-11.tar!000023.png"
    several = find_shards(tmp_path / "x-{00..01}.tar{,.gz}")
    assert [path.name for path in several] == ["x-00.tar", "x-00.tar.gz", "x-01.tar", "x-01.tar.gz"]
    assert load(tmp_path / "x-{11,03}.tar").captions == ["number 22", "number 23", "number 6", "number 7"]
    monkeypatch.setattr("undiffuse.data.sources.tar._MOST_OPEN", 5)
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 11_000)
    many = load(tmp_path, size=64, upscale=True, cache="none")
    assert type(many) is not type(held) and many.fingerprint == held.fingerprint
    assert np.array_equal(many.items(np.arange(25)), held.items(np.arange(25)))


def test_what_shards_are_called_on_the_command_line(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x-0.tar", samples(0, 2))
    zipped = write_tar(tmp_path / "unnamed.gz", samples(0, 2))
    for text in (str(tmp_path), str(shard), str(zipped), f"{tmp_path}/x-{{0..3}}.tar", f"{tmp_path}/*.tar", "tar:x"):
        assert source_config_for(text).name == "tar"
    (tmp_path / "notes.gz").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(UsageError, match=r"not an IDX \(MNIST-format\), zip or tar file of images; unpack it"):
        source_config_for(str(tmp_path / "notes.gz"))
    plain = write_tar(tmp_path / "images.data", samples(0, 1))
    assert source_config_for(str(plain)).name == "tar"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("x-{0..1}.tar", r"x-0\.tar: no such file"),
        ("x-*.tar", "no file matches this pattern"),
        ("x-{3..1}.tar", "not a range of 1 to"),
        ("x-{0..9999999}.tar", "not a range of 1 to"),
        ("{x-{0..3},y}.tar", "nested braces"),
        ("x-{0..999}{0..999}.tar", "more than 100000 files"),
        ("", "no tar shards in this folder"),
        ("x.tar", "no such file"),
    ],
)
def test_patterns_that_fit_nothing(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path / pattern)


def test_an_ordinary_archive_of_class_folders(tmp_path: Path) -> None:
    files = {"set/cat/1.png": png(0), "set/dog/1.png": png(1), "set/dog/2.png": png(2), "set/README.txt": "x"}
    found = load(write_tar(tmp_path / "x.tar", files))
    assert found.class_names == ("cat", "dog") and found.labels is not None and found.labels.tolist() == [0, 1, 1]
    assert load(tmp_path / "x.tar", labels="none").labels is None
    nested = write_tar(tmp_path / "y.tar", {"a/b/1.png": png(0), "c/d/1.png": png(1)})
    assert load(nested).labels is None and load(nested, labels="leaf").class_names == ("a/b", "c/d")


def add(path: Path, name: str, kind: bytes, target: str = "") -> None:
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)


def test_links_and_devices_are_never_followed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(0, 2))
    add(path, "link.png", tarfile.SYMTYPE, "/etc/passwd")
    add(path, "hard.png", tarfile.LNKTYPE, "000000.png")
    add(path, "null.png", tarfile.CHRTYPE)
    add(path, "folder.png", tarfile.DIRTYPE)
    found = load(path)
    assert len(found) == 2 and found.provenance["left_out"].startswith("3 links: hard.png, link.png, null.png (")


BAD: dict[str, tuple[dict[str, Content], str]] = {
    "no image": ({"9.cls": "1", "9.txt": "x"}, r"x\.tar!9: a sample without an image \(it has \.cls, \.txt\)"),
    "two images": (
        {"9.png": png(0), "9.jpg": png(1)},
        r"!9: a sample with 2 images; .* by data.image_column=jpg or png",
    ),
    "name again": ({"000001.png": png(1)}, r"x\.tar!000001: there are two samples of this key"),
    "key again": ({"000000.png": png(1), "000000.cls": "1"}, r"x\.tar!000000: there are two samples of this key"),
    "no class": ({"9.png": png(0), "9.txt": "x"}, r"x\.tar!9\.png: has no label though others have one"),
    "empty class": ({"9.png": png(0), "9.cls": "", "9.txt": "x"}, r"x\.tar!9\.cls: empty"),
    "name among numbers": (
        {"9.png": png(0), "9.cls": "cat", "9.txt": "x"},
        r"x\.tar!9\.png: its label 'cat' is a name",
    ),
    "no text": ({"9.png": png(0), "9.cls": "1", "9.txt": b"\xff\xfe\xff"}, r"x\.tar!9\.txt: not UTF-8"),
    "long text": ({"9.png": png(0), "9.cls": "1", "9.txt": "x" * (2**20 + 1)}, r"9\.txt: has 1048577 bytes"),
    "no JSON": ({"9.png": png(0), "9.cls": "1", "9.txt": "x", "9.json": "{"}, r"x\.tar!9\.json: not valid JSON"),
    "half a character": (
        {"9.png": png(0), "9.cls": "1", "9.json": '{"text": "\\ud800"}'},
        r"x\.tar!9\.json: not UTF-8 text, or with an unpaired surrogate",
    ),
    "endless class": (
        {"9.png": png(0), "9.cls": "9" * 5000, "9.txt": "x"},
        r"x\.tar!9\.png: its label '?9+'? is",
    ),
    "traversal": ({"../9.png": png(0)}, "leads out of the shard"),
    "absolute": ({"/etc/9.png": png(0)}, "leads out of the shard"),
    "not an image": ({"9.png": "text", "9.cls": "1", "9.txt": "x"}, r"x\.tar!9\.png: not an image"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_sample_is_named_or_skipped(tmp_path: Path, kind: str) -> None:
    files, message = BAD[kind]
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:  # a key may come twice
        for name, content in [*samples(0, 3).items(), *files.items()]:
            member = tarfile.TarInfo(name)
            encoded = content.encode() if isinstance(content, str) else content
            member.size = len(encoded)
            archive.addfile(member, io.BytesIO(encoded))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}!") and "\n" not in str(caught.value)
    assert str(caught.value).count("on_error=skip") == 1
    found = load(path, on_error="skip")
    assert len(found) == 3 and found.captions == ["number 0", "number 1", "number 2"]
    assert found.provenance["skipped"].startswith("1 file left out")


def header_byte(content: bytes) -> bytes:
    place = content.index(b"000002.png")
    return content[:place] + b"X" + content[place + 1 :]


SPOILT: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "cut in an image": (lambda content: content[: content.index(b"000002.png") + 600], "'000002.png' ends after", 2),
    "cut in a header": (lambda content: content[: content.index(b"000002.png") + 99], "mark of its end is missing", 2),
    # where nothing follows, the last sample may lack some of its members
    "cut between": (lambda content: content[: content.index(b"000002.cls")], "mark of its end is missing", 1),
    "header changed": (header_byte, "the shard is damaged at byte", 2),
    "size of nonsense": (
        lambda content: content.replace(b"00000000001\0", b"zzzzzzzzzzz\0", 1),
        "not a tar archive, despite its name",
        0,
    ),
    "text": (lambda content: b"<html>404 not found</html>" * 100, "not a tar archive, despite its name", 0),
    "short text": (lambda content: b"404", "not a tar archive, despite its name", 0),
    "empty": (lambda content: b"", "the file is empty", 0),
    "zeros": (lambda content: bytes(10240), "no image in the shards", 0),
}


@pytest.mark.parametrize("how", sorted(SPOILT))
def test_a_damaged_shard_is_named_or_gives_what_it_has(tmp_path: Path, how: str) -> None:
    spoil, message, left = SPOILT[how]
    path = write_tar(tmp_path / "x.tar", samples(0, 3))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    if left:
        found = load(path, on_error="skip")
        assert found.captions == [f"number {item}" for item in range(left)]
        assert is_of(found, left - 1, left - 1)
        assert found.provenance["skipped"].startswith("1 file left out")
    else:
        with pytest.raises(UsageError, match=message):
            load(path, on_error="skip")


def raw_member(name: bytes, content: bytes, kind: bytes = b"0", size: bytes = b"") -> bytes:
    """A member with a sound checksum, whatever else is in its header."""
    header = bytearray(512)
    header[: len(name)], header[156:157], header[148:156] = name, kind, b" " * 8
    stated = size or b"%011o" % len(content)
    header[124 : 124 + len(stated)] = stated
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (raw_member(b"b.png", b"", size=b"-0000001000"), "damaged at byte"),  # points back at its own header
        (raw_member(b"b.png", b"", size=b"0_1"), "damaged at byte"),
        (raw_member(b"h", b"5010 size=" + b"9" * 4999 + b"\n", b"x") + raw_member(b"b.png", b""), "cut short"),
    ],
    ids=["negative size", "underscore", "endless size"],
)
def test_sizes_that_no_writer_states_are_damage(tmp_path: Path, hostile: bytes, message: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(raw_member(b"a.png", png(0)) + hostile + bytes(1024))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "odd", [raw_member(b".", b""), raw_member(b"h", b"0" * 5000 + b"9 size=1\n", b"x")], ids=["a dot", "endless length"]
)
def test_odd_members_are_passed_over(tmp_path: Path, odd: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(raw_member(b"a.png", png(0)) + odd + raw_member(b"b.png", png(1)) + bytes(1024))
    assert len(load(path)) == 2


@pytest.mark.parametrize("how", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzipped_shard_is_skipped_whole(tmp_path: Path, how: str) -> None:
    write_tar(tmp_path / "a.tar", samples(0, 2))
    path = write_tar(tmp_path / "b.tar.gz", samples(2, 2))
    content = path.read_bytes()
    flipped = content[:-6] + bytes([content[-6] ^ 0xFF]) + content[-5:]
    path.write_bytes({"cut": content[:-20], "flipped": flipped, "no gzip": content[:2] + b"nothing"}[how])
    with pytest.raises(UsageError, match=r"b\.tar\.gz: the gzip file is damaged or cut short"):
        load(tmp_path)
    assert load(tmp_path, on_error="skip").captions == ["number 0", "number 1"]


def test_a_gzipped_shard_beyond_memory_is_rejected_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 25_000)
    write_tar(tmp_path / "a.tar.gz", samples(0, 2))
    assert len(load(tmp_path)) == 2
    write_tar(tmp_path / "b.tar.gz", {"bomb.txt": "x" * 10**6, **samples(2, 2)})
    with pytest.raises(UsageError, match=r"b\.tar\.gz: unpacks to more than the \d+ bytes .*; unpack it"):
        load(tmp_path)
    assert len(load(tmp_path, on_error="skip")) == 2


def test_endless_names_are_rejected(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a" * 2**20 + ".png": png(0)}, tarfile.GNU_FORMAT)
    with pytest.raises(UsageError, match=r"x\.tar: not a tar archive|damaged"):
        load(path)


def test_a_shard_that_is_cut_later_is_named_when_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    path = write_tar(tmp_path / "x.tar", samples(0, 3))
    dataset = load(path, cache="none")
    with path.open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(UsageError, match=r"x\.tar!000002\.png: cut short: the shard is shorter than it was"):
        dataset.fetch([2])


def test_classes_that_no_kept_sample_has_keep_their_number(tmp_path: Path) -> None:
    """Numbers are class indices: a gap stays a gap, so that shards of one set agree."""
    files = {"0.png": png(0), "0.cls": "4", "1.png": png(1), "1.cls": "1"}
    found = load(write_tar(tmp_path / "x.tar", files))
    assert found.num_classes == 5 and found.labels is not None and np.array_equal(found.labels, [4, 1])


def test_members_of_a_sample_need_not_follow_each_other(tmp_path: Path) -> None:
    files = samples(0, 4)
    images_first = dict(sorted(files.items(), key=lambda pair: not pair[0].endswith("png")))
    found = load(write_tar(tmp_path / "x.tar", images_first))
    assert found.captions == [f"number {item}" for item in range(4)]
    assert all(is_of(found, item, item) for item in range(4)) and found.class_names == ("0", "1", "2")


def test_two_members_of_one_name_next_to_each_other_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for content in (png(0), png(1)):
            member = tarfile.TarInfo("a.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(UsageError, match=r"x\.tar!a: 2 members with the same name"):
        load(path)


def test_shards_that_are_called_by_number_alone_are_no_parts(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number:05d}.tar", {"base.png": png(number)})
    found = load(tmp_path, labels="none")
    assert len(found) == 3 and "splits" not in found.provenance
