"""Zip archives read in place: every way a member may be written, and every way an archive may be damaged."""

from __future__ import annotations

import copy
import multiprocessing
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from image_files import is_of, png, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, ZipConfig, load_dataset, source_config_for
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.zip_index import read_entries
from undiffuse.data.sources.layout.classes import folder_classes
from undiffuse.errors import UsageError

IMAGES = {f"{index}.png": png(index) for index in range(4)}


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(ZipConfig(path=str(path), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_members_are_read(tmp_path: Path, method: int) -> None:
    found = load(write_zip(tmp_path / "set.zip", {**IMAGES, "notes.md": "x", "empty/": ""}, method))
    assert len(found) == 4 and all(is_of(found, item, item) for item in range(4))
    assert found.item_name(2) == f"{tmp_path}/set.zip!2.png"
    assert found.provenance["passed_over"] == "1 file without an image extension: notes.md"


def test_names_are_sorted_as_the_stylegan_tools_sort_them(tmp_path: Path) -> None:
    names = ["b/2.png", "B/1.png", "b/10.png", "a.png", "b.png"]
    path = write_zip(tmp_path / "set.zip", {name: png(place) for place, name in enumerate(names)})
    found = load(path)
    assert [found.item_name(item).partition("!")[2] for item in range(5)] == sorted(names)


def test_hidden_members_links_and_archives_within_are_passed_over(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {**IMAGES, ".hidden.png": "x", "__MACOSX/._a.png": "x", "more.zip": "PK"})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    found = load(path)
    assert len(found) == 4
    assert found.provenance["passed_over"] == "2 hidden files or folders: .hidden.png, __MACOSX/._a.png"
    left_out = found.provenance["left_out"].split("; ")
    assert left_out[0].startswith("1 link: link.png") and left_out[1].startswith("1 nested archive: more.zip")


def test_zip64_comments_streams_and_what_stands_before_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wide.zip", "w") as archive:
        for name, content in IMAGES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
        archive.comment = b"PK\5\6 is no second end" + b"x" * 300
    whole = (tmp_path / "wide.zip").read_bytes()
    (tmp_path / "shifted.zip").write_bytes(b"#!/bin/sh\nexit 0\n" + whole)
    with (tmp_path / "stream.zip").open("wb") as raw, zipfile.ZipFile(Unseekable(raw), "w") as archive:  # type: ignore[arg-type]
        for name, content in IMAGES.items():  # sizes follow the content, and its header says nothing
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    for name in ("wide", "shifted", "stream"):
        found = load(tmp_path / f"{name}.zip")
        assert len(found) == 4 and is_of(found, 3, 3)


class Unseekable:
    """Makes ``zipfile`` write as into a pipe."""

    def __init__(self, raw: object) -> None:
        self.write, self.flush = raw.write, raw.flush  # type: ignore[attr-defined]


def as_zip64(content: bytes) -> bytes:
    """The same archive with its directory's numbers in zip64 records alone, as for more than 65,535 members."""
    end = content.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<HLL", content, end + 10)
    directory, place, wide = content[start : start + size], 0, b""
    while place < len(directory):
        entry = bytearray(directory[place : place + 46])
        stored, whole, name, extra, comment = struct.unpack_from("<LLHHH", entry, 20)
        (offset,) = struct.unpack_from("<L", entry, 42)
        assert extra == comment == 0
        struct.pack_into("<LLHH", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF, name, 28)
        struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
        wide += entry + directory[place + 46 : place + 46 + name] + struct.pack("<HHQQQ", 1, 24, whole, stored, offset)
        place += 46 + name
    record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(wide), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(wide), 1)
    ending = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:start] + wide + record + locator + ending


def test_a_directory_in_zip64_records(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", IMAGES)
    path.write_bytes(as_zip64(path.read_bytes()))
    assert zipfile.ZipFile(path).namelist() == list(IMAGES)  # the reference reads what we wrote
    assert [entry.size for entry in read_entries(FileAt(path))] == [len(content) for content in IMAGES.values()]
    assert is_of(load(path), 2, 2)


def test_names_in_utf8_and_in_the_old_code_page(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"blüte.png": png(0), "xyz.png": png(1)})
    content = path.read_bytes().replace(b"xyz.png", b"x\x81z.png")  # 0x81 is ü there
    path.write_bytes(content)
    found = load(path)
    assert [found.item_name(item).partition("!")[2] for item in range(2)] == ["blüte.png", "xüz.png"]


def at_last_entry(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the directory's last entry."""

    def spoil(content: bytes) -> bytes:
        place = content.rfind(b"PK\1\2") + offset
        return content[:place] + value + content[place + len(value) :]

    return spoil


def unsafe(name: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(b"nasty/1.png", name.encode().ljust(11, b"_")[:11])


SPOILT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-40], "cut short: the directory at its end is missing"),
    "cut in half": (lambda content: content[: len(content) // 2], "cut short: the directory at its end is missing"),
    "empty": (lambda content: b"", r"the file is empty"),
    "text": (lambda content: b"<html>404</html>", "not a zip archive, despite its name"),
    "head missing": (lambda content: content[100:], "the archive's directory is damaged"),
    "entry overwritten": (at_last_entry(2, b"\1\3"), "the archive's directory is damaged"),
    "count too high": (
        lambda content: content[:-12] + b"\xf0\0" + content[-10:],
        "the archive's directory is damaged",
    ),
    "one of several": (lambda content: content[:-18] + b"\1\0" + content[-16:], "one part of an archive in several"),
    "behind the end": (at_last_entry(20, b"\xf0\xff\xff\x7f"), "a member extends into it"),
}  # fmt: skip


@pytest.mark.parametrize("how", sorted(SPOILT))
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_archive_without_a_intact_directory_is_rejected(tmp_path: Path, how: str, on_error: str) -> None:
    path = write_zip(tmp_path / "set.zip", IMAGES)
    path.write_bytes(SPOILT[how][0](path.read_bytes()))
    with pytest.raises(UsageError, match=SPOILT[how][1]) as caught:
        load(path, on_error=on_error)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def in_entry(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the directory's entry of 1.png."""

    def spoil(content: bytes) -> bytes:
        place = content.rfind(b"nasty/1.png") - 46 + offset
        return content[:place] + value + content[place + len(value) :]

    return spoil


def flip_pixel(content: bytes) -> bytes:
    place = content.index(b"IDAT", content.index(b"nasty/1.png")) + 30
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


MEMBERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "traversal": (unsafe("../../1.png"), "leads out of the archive"),
    "traversal within": (unsafe("a/../../.png"[:7] + ".png"), "leads out of the archive"),
    "absolute": (unsafe("/etcxx1.png"), "leads out of the archive"),
    "backslashes": (unsafe("..\\..\\1.png"), "leads out of the archive"),
    "drive": (unsafe("C:\\xxx1.png"), "leads out of the archive"),
    "zero byte": (unsafe("nas\0y/1.png"), "leads out of the archive"),
    "twice": (unsafe("sound/0.png"), "two members with this name"),
    "pixel flipped": (flip_pixel, r"nasty/1\.png: damaged or cut short \(wrong checksum\)"),
    "checksum": (in_entry(16, b"\1\2\3\4"), "wrong checksum"),
    "encrypted": (in_entry(8, b"\1\0"), "encrypted; unpack the archive with its password"),
    "bzip2": (in_entry(10, b"\x0c\0"), "compressed by method 12"),
    "not deflated": (in_entry(10, b"\x08\0"), "damaged or cut short"),
    "claims more": (in_entry(24, struct.pack("<L", 2**31)), "claims 2147483648 bytes out of"),
    "another place": (in_entry(42, struct.pack("<L", 3)), "the member is not at its offset"),
}


@pytest.mark.parametrize("how", sorted(MEMBERS))
def test_a_bad_member_is_named_or_skipped(tmp_path: Path, how: str) -> None:
    path = write_zip(tmp_path / "set.zip", {"sound/0.png": png(0), "nasty/1.png": png(1), "sound/2.png": png(2)})
    content = MEMBERS[how][0](path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(UsageError, match=MEMBERS[how][1]) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}!") and "\n" not in str(caught.value)
    found = load(path, on_error="skip")
    assert len(found) == 2 and is_of(found, 0, 0) and is_of(found, 1, 2)
    assert found.provenance["skipped"].startswith("1 file left out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set.zip"]  # nothing was ever unpacked


def test_bombs_are_rejected_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(bytes(10**6), 9)
    assert len(bomb) < 1100
    path = write_zip(tmp_path / "set.zip", {**IMAGES, "bomb.png": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("undiffuse.data.sources.zip.MAX_MEMBER_BYTES", 10**5)
    with pytest.raises(UsageError, match=r"bomb\.png: 1000000 bytes exceed the limit of 100000"):
        load(path)
    assert len(load(path, on_error="skip")) == 4
    content = path.read_bytes()
    entry = content.rfind(b"bomb.png") - 46  # the directory claims little, the content unpacks to more
    path.write_bytes(content[: entry + 24] + struct.pack("<L", 500) + content[entry + 28 :])
    with pytest.raises(UsageError, match=r"bomb\.png: damaged or cut short"):
        load(path)
    monkeypatch.setattr("undiffuse.data.sources.layout.captions.MAX_SIDECAR_BYTES", 100)
    path = write_zip(tmp_path / "notes.zip", {**IMAGES, "0.txt": "x" * 101})
    with pytest.raises(UsageError, match=r"0\.txt: 101 bytes exceed the limit of 100 for a text file"):
        load(path)


def test_an_archive_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no images in this archive \(no files\); expected \.apng"):
        load(write_zip(tmp_path / "empty.zip", {}))
    with pytest.raises(UsageError, match=r"no images in this archive \(2 files without .*: a\.txt, b\.md\)"):
        load(write_zip(tmp_path / "text.zip", {"a.txt": "x", "b.md": "y"}))
    with pytest.raises(UsageError, match=r"none of the 1 image can be used; the first: .*leads out"):
        load(write_zip(tmp_path / "bad.zip", {"../a.png": png(0)}), on_error="skip")
    with pytest.raises(UsageError, match=r"nowhere\.zip: no such file"):
        load(tmp_path / "nowhere.zip")
    with pytest.raises(UsageError, match="a folder; expected a file"):
        load(tmp_path)


def test_an_archive_is_known_by_its_content(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.data", IMAGES)
    assert source_config_for(str(path)) == ZipConfig(path=str(path))
    (tmp_path / "cut.zip").write_bytes(b"")
    assert source_config_for(str(tmp_path / "cut.zip")).name == "zip"  # whose reader says what is wrong
    assert source_config_for(f"zip:{path}") == ZipConfig(path=str(path))


def read_back(dataset: Dataset, item: int) -> None:
    os._exit(0 if is_of(dataset, item, item % 4) else 1)


def test_threads_forks_and_copies_read_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    dataset = load(write_zip(tmp_path / "set.zip", {**IMAGES}, zipfile.ZIP_DEFLATED), cache="none")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=read_back, args=(dataset, item)) for item in range(4)]
    for child in children:
        child.start()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda item: is_of(dataset, item % 4, item % 4), range(200)))
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    file = FileAt(tmp_path / "set.zip")
    other = copy.copy(file)  # what a process that is not forked gets
    file.close()
    assert other.read(0, 4) == b"PK\3\4"


def test_a_file_that_is_replaced_later_is_named_when_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    path = write_zip(tmp_path / "set.zip", IMAGES)
    dataset = load(path, cache="none")
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UsageError, match=r"set\.zip!3\.png: the archive is damaged or was changed"):
        dataset.fetch([3])


def test_real_flowers_read_in_place_are_those_of_the_folder(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "flowers" / "flower_photos_96_center_q92.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())[::40]
        few = write_zip(tmp_path / "few.zip", {name: archive.read(name) for name in names}, zipfile.ZIP_DEFLATED)
        write_tree(tmp_path / "tree", {name: archive.read(name) for name in names})
    found, folder = load(few, size=32), load_dataset(FolderConfig(path=str(tmp_path / "tree"), size=32))
    assert found.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert found.fingerprint == folder.fingerprint and np.array_equal(
        found.items(np.arange(92)), folder.items(np.arange(92))
    )


def test_real_omniglot_by_alphabet_and_by_character(shared_data: Path) -> None:
    path = shared_data / "omniglot" / "images_background_small1.zip"
    entries = list(read_entries(FileAt(path)))
    with zipfile.ZipFile(path) as archive:
        assert {entry.name: entry.size for entry in entries} == {
            member.filename: member.file_size for member in archive.infolist() if not member.is_dir()
        }
    names = [entry.name for entry in entries]
    assert len(set(folder_classes(names, "folders", path) or [])) == 5
    characters = load(path, labels="leaf", size=28, channels=1)
    assert characters.num_classes == 136
    assert "Latin/character01" in characters.class_names and characters.shape == (1, 28, 28)
    assert characters.labels is not None and set(np.bincount(characters.labels)) == {20}
