"""Listing and preparing many images: what each costs in memory, and the compact tables behind that."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import png, write_zip

from undiffuse.data import source_config_for
from undiffuse.data.config import ZipConfig
from undiffuse.data.load import list_source
from undiffuse.data.prepare import prepare
from undiffuse.data.prepare.work import encode_png
from undiffuse.data.prepare.zip_writer import Member, ZipEnd, member_bytes
from undiffuse.data.readers import zip_index
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.zip_index import read_entries
from undiffuse.data.sources.layout.folder_files import list_names
from undiffuse.data.sources.zip import ZipIndex
from undiffuse.data.storage.listing import FileListing
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray, StringIndex, sorted_rows

GROWTH = """
import sys
from pathlib import Path
from undiffuse.data import source_config_for
from undiffuse.data.load import list_source
from undiffuse.data.prepare import prepare

def kept(field: str) -> int:
    lines = map(str.split, Path("/proc/self/status").read_text().splitlines())
    return next(1024 * int(line[1]) for line in lines if line[0] == field)

def work(source: str) -> None:
    config = source_config_for(source).model_copy(update={"size": 8, "channels": 3})
    if sys.argv[1] == "list":
        list_source(config)
    else:
        prepare(config, Path(source).with_suffix(".out.zip"), workers=1)

work(sys.argv[2])  # what the libraries need once
before = kept("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
work(sys.argv[3])
print(kept("VmHWM:") - before)
"""


# glibc raises this limit as it goes; with so few images the holes that it then leaves would hide what they cost
NO_HOLES = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def name_of(number: int) -> str:
    return f"class{number % 10}/image{number:010d}.png"


def large_zip(path: Path, count: int) -> Path:
    """Different images of 8x8, not in the order of their names."""
    members = []
    with path.open("wb") as file:
        for number in range(count):
            array_of = np.zeros((3, 8, 8), dtype=np.uint8)
            array_of.flat[:4] = np.frombuffer(np.uint32(number).tobytes(), dtype=np.uint8)
            content = encode_png(array_of)
            members.append(Member(name_of(number), zlib.crc32(content), len(content)))
            file.write(member_bytes(name_of(number), content, members[-1].crc))
        ZipEnd(file).write_directory(members)
    return path


def large_folder(path: Path, count: int) -> Path:
    """Files that a listing does not open."""
    for number in range(10):
        (path / f"class{number}").mkdir(parents=True)
    for number in range(count):
        (path / name_of(number)).touch()
    return path


def traced(what: str, source: Path) -> int:
    """The most bytes that Python and numpy held for the work on a source."""
    config = source_config_for(str(source)).model_copy(update={"size": 8, "channels": 3})
    tracemalloc.start()
    try:
        if what == "list":
            list_source(config)
        else:
            prepare(config, source.with_suffix(".out.zip"), workers=1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("what", "make", "most"),
    [
        ("list", large_zip, 130),
        ("list", large_folder, 115),
        pytest.param("prepare", large_zip, 180, marks=pytest.mark.slow),
    ],
)
def test_what_is_held_for_a_image(
    tmp_path: Path, what: str, make: Callable[[Path, int], Path], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next test in small, by Python's own account, which counts what a buffer has in reserve; as of many, a small
    part of the names is sorted at a time."""
    monkeypatch.setattr("undiffuse.data.storage.string_array._RUN", 64)
    traced(what, make(tmp_path / "warm.zip", 100))
    few, many = (traced(what, make(tmp_path / f"{count}.zip", count)) for count in (300, 1500))
    slope = (many - few) / 1200
    print(f"{what} {make.__name__}: {slope:.0f} bytes held for an image")
    assert 20 < slope < most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(
    ("what", "make", "counts", "most"),
    # names of 28 bytes included; as Python's strings and dictionaries it was 200 to 350
    [
        ("list", large_zip, (10_000, 60_000), 110),
        ("list", large_folder, (10_000, 40_000), 100),
        ("prepare", large_zip, (5_000, 25_000), 180),
    ],
)
def test_the_memory_that_a_image_costs(
    tmp_path: Path, what: str, make: Callable[[Path, int], Path], counts: tuple[int, int], most: int
) -> None:
    warm = make(tmp_path / "warm.zip", 100)
    peaks = []
    for count in counts:
        source = make(tmp_path / f"{count}.zip", count)
        command = [sys.executable, "-c", GROWTH, what, str(warm), str(source)]
        peaks.append(int(subprocess.check_output(command, env=os.environ | NO_HOLES)))
        (tmp_path / "warm.out.zip").unlink(missing_ok=True)
    slope = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    print(f"{what} {make.__name__}: {slope:.0f} bytes per image")
    assert 20 < slope < most


def some_texts(count: int) -> list[str]:
    rng = random.Random(0)
    pieces = ["a", "b/", "é", "\udc80", "", "z" * 300, "0"]
    return ["".join(rng.choices(pieces, k=rng.randrange(4))) for _ in range(count)]


def test_rows_are_sorted_as_python_sorts_equal_ones_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = some_texts(2000)
    monkeypatch.setattr("undiffuse.data.storage.string_array._RUN", 64)
    for given in (texts, sorted(texts), texts[:1], []):
        assert sorted_rows(StringArray(given)).tolist() == sorted(range(len(given)), key=given.__getitem__)


def test_an_index_finds_all_places_in_order() -> None:
    texts = some_texts(2000)
    index = StringIndex.of(StringArray(texts), lambda text: text[:2])
    for key in {*(text[:2] for text in texts), "absent"}:
        places = [place for place, text in enumerate(texts) if text[:2] == key]
        assert list(index.all_of(key)) == places and index.first(key) == (places[0] if places else None)


def test_places_beyond_four_gigabytes_have_more_bytes() -> None:
    texts, known = StringArray(), some_texts(100)
    texts._starts = array("B")  # as full after 256 bytes as the real one is after 4 GiB
    for text in known:
        texts.append(text)
    assert texts == known and texts[-1] == known[-1] and texts.select(np.array([99, 3])) == [known[99], known[3]]
    with pytest.raises(IndexError):
        texts[100]


def test_a_directory_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "x.zip", {f"{'long' * (number % 40)}{number}.png": png(number) for number in range(60)})
    whole = list(read_entries(FileAt(path)))
    for window in (1, 46, 64, 1000):
        monkeypatch.setattr(zip_index, "_WINDOW", window)
        assert list(read_entries(FileAt(path))) == whole and len(whole) == 60


def test_members_lie_where_their_names_report_after_sorting(tmp_path: Path) -> None:
    rng = random.Random(0)
    contents = {f"{rng.randrange(10**6)}.png": rng.randbytes(rng.randrange(1, 50)) for _ in range(500)}
    path = write_zip(tmp_path / "x.zip", contents)
    assert list(ZipIndex(FileAt(path), Skips("fail")).images.names) == sorted(contents)
    found = list_source(ZipConfig(path=str(path)))
    assert isinstance(found, FileListing)
    assert [found.files.read(row) for row in range(500)] == [contents[name] for name in sorted(contents)]


def test_a_folder_is_walked_from_its_top_and_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "root/b/deep").mkdir(parents=True)
    (tmp_path / "root/c").mkdir()
    for name in ("b/deep/2.png", "b/1.PNG", "c/x.txt", "0.jpg", ".hidden.png"):
        (tmp_path / "root" / name).touch()
    (tmp_path / "root/a").symlink_to(tmp_path / "root/b/deep")
    (tmp_path / "root/b/deep/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/d.png").symlink_to("d.png")
    names = list_names(tmp_path / "root")
    assert names.images == ["0.jpg", "a/2.png", "b/1.PNG", "d.png"] and names.others == ["c/x.txt"]
    assert names.left_out.text(warned=False).startswith("1 hidden file or folder: .hidden.png; 2 links to folders")
