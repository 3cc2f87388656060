"""The cache of decoded images: the same set again, at no cost of memory; a stale or damaged one is not used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undiffuse.data import Dataset, FolderConfig, TarConfig, ZipConfig, load_dataset, split_by_content
from undiffuse.data.config import EncodedConfig
from undiffuse.data.dataset import ArrayDataset
from undiffuse.data.storage import cache as cache_module
from undiffuse.data.storage import encoded
from undiffuse.data.storage.cache import cache_folder_of, cache_root, open_cached, stamp_of
from undiffuse.data.storage.mapped import CHECKS, INFO, PIXELS, MappedSet, MappedStringArray, write_info, write_strings
from undiffuse.errors import UsageError

COUNT = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes with captions."""
    for index in range(COUNT):
        write_image(tmp_path / "set" / "ab"[index % 2] / f"{index:02d}.png", index)
    return tmp_path / "set"


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    path.with_suffix(".txt").write_text(f"image № {seed}")


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No set fits into memory, and the cache is this test's own."""
    monkeypatch.setattr(encoded, "MAX_BYTES_IN_MEMORY", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def same(one: Dataset, other: Dataset) -> bool:
    rows = np.arange(len(one))[::-1]
    return (
        one.fingerprint == other.fingerprint
        and np.array_equal(one.items(rows), other.items(rows))
        and one.provenance == other.provenance
        and [one.item_name(row) for row in rows] == [other.item_name(row) for row in rows]
    )


def in_a_zip(images: Path) -> Path:
    with zipfile.ZipFile(images.with_suffix(".zip"), "w") as archive:
        for path in sorted(images.rglob("*.*")):
            archive.write(path, path.relative_to(images))
    return images.with_suffix(".zip")


def in_shards(images: Path) -> Path:
    for number in range(2):
        with tarfile.open(images.with_name(f"x-{number}.tar"), "w") as archive:
            for path in sorted(images.rglob("*.*"))[number * COUNT : (number + 1) * COUNT]:
                archive.add(path, path.name)
    return images.with_name("x-{0..1}.tar")


def config_of(kind: str, images: Path, **options: object) -> EncodedConfig:
    models = {"folder": (FolderConfig, images), "zip": (ZipConfig, None), "tar": (TarConfig, None)}
    path = models[kind][1] or (in_a_zip(images) if kind == "zip" else in_shards(images))
    return models[kind][0](path=str(path), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_large_set_is_decoded_once(kind: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(kind, images)
    plain = load_dataset(config.model_copy(update={"cache": "none"}))
    assert plain.decodes and not cache_root().exists()
    first = load_dataset(config)
    with monkeypatch.context() as patch:
        patch.setattr(encoded, "load_encoded", None)  # nothing is decoded from here on
        patch.setattr(encoded, "decode_image", None)
        again = load_dataset(config)
    for kept in (first, again):
        assert isinstance(kept, MappedSet) and not kept.decodes
        assert same(kept, plain)
        assert kept.captions is not None and sorted(kept.captions)[1] == "image № 1"
    assert [path.name for path in cache_root().iterdir()] == [cache_folder_of(config).name]


def test_views_of_a_kept_set_are_those_of_the_set(images: Path) -> None:
    config = FolderConfig(path=str(images))
    plain, kept = load_dataset(config.model_copy(update={"cache": "none"})), load_dataset(config)
    for one, other in zip(split_by_content(plain, 0.4), split_by_content(kept, 0.4), strict=True):
        assert same(one, other) and len(one) > 0
        batch, twin = one.fetch([1, 0]), other.fetch([1, 0])
        assert batch.captions == twin.captions and np.array_equal(batch.items, twin.items)
    classes = load_dataset(config.model_copy(update={"classes": ("b",)}))
    assert classes.class_names == ("b",) and len(classes) == COUNT // 2
    assert isinstance(classes._base, MappedSet)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_image(folder / "b" / "99.png", 99),
        lambda folder: [path.unlink() for path in folder.glob("a/00.*")],
        lambda folder: [path.rename(path.with_stem("98")) for path in folder.glob("a/00.*")],
        lambda folder: write_image(folder / "a" / "00.png", 77),
        lambda folder: (folder / "a" / "00.txt").write_text("a longer caption"),
    ],
    ids=["added", "removed", "renamed", "rewritten", "caption"],
)
def test_a_set_that_was_changed_is_decoded_again_in_the_same_place(images: Path, change: object) -> None:
    config = FolderConfig(path=str(images))
    load_dataset(config)
    change(images)  # type: ignore[operator]
    assert open_cached(config) is None
    fresh = load_dataset(config)
    assert same(fresh, load_dataset(config.model_copy(update={"cache": "none"})))
    assert isinstance(fresh, MappedSet) and len(list(cache_root().iterdir())) == 1


def test_options_that_make_other_images_have_another_place(images: Path) -> None:
    config = FolderConfig(path=str(images))
    others = [{"size": 4}, {"channels": 1}, {"labels": "none"}, {"captions": "none"}, {"fit": "letterbox"}]
    places = {cache_folder_of(config.model_copy(update=change)) for change in [{}, *others, {"on_error": "skip"}]}
    assert len(places) == 7
    alike = [{"validation_fraction": 0.5}, {"classes": ("a",)}, {"cache": "none"}]
    assert {cache_folder_of(config.model_copy(update=change)) for change in alike} == {cache_folder_of(config)}


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: shorten(place / PIXELS),
        lambda place: (place / "labels.i64").unlink(),
        lambda place: shorten(place / "captions.utf8"),
        lambda place: (place / INFO).write_text("{"),
        lambda place: (place / INFO).write_text("[]"),
        lambda place: change_info(place, count=COUNT + 1),
        lambda place: change_info(place, shape=[3, 8, 9]),
        lambda place: change_info(place, bytes={"../x": 3}),
        lambda place: change_info(place, format=0),
        lambda place: change_info(place, stamp=None),
        lambda place: change_info(place, class_names=-1),
        lambda place: change_info(place, provenance="abc"),
    ],
)
def test_a_damaged_one_is_built_again(images: Path, harm: object, caplog: pytest.LogCaptureFixture) -> None:
    config = FolderConfig(path=str(images))
    valid = load_dataset(config).fingerprint
    harm(cache_folder_of(config))  # type: ignore[operator]
    caplog.clear()
    assert open_cached(config) is None and "rebuilt" in caplog.text
    assert load_dataset(config).fingerprint == valid
    assert open_cached(config) is not None


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


def test_a_bit_that_flips_in_a_kept_set_is_never_silent(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = FolderConfig(path=str(images))
    load_dataset(config)
    valid, place = load_dataset(config.model_copy(update={"cache": "none"})), cache_folder_of(config)
    names = sorted(path.name for path in place.iterdir())
    assert len(names) == 9
    for name in names:
        if name != PIXELS:
            flip(place / name, (place / name).stat().st_size // 2)
            caplog.clear()
            kept = load_dataset(config)
            assert "rebuilt" in caplog.text, name
            assert same(kept, valid)
    flip(place / PIXELS, 192 * 5 + 7)  # of 3 x 8 x 8 bytes per image, in the sixth
    kept = load_dataset(config)
    kept.fetch([0, 4, 6])
    with pytest.raises(UsageError, match=r"pixels.u8: .*a/10.png does not match its checksum.*run the command again"):
        kept.fetch([5])
    assert same(load_dataset(config), valid)


def change_info(place: Path, **values: object) -> None:
    info = json.loads((place / INFO).read_text())
    (place / INFO).write_text(json.dumps({**info, **values}))


Usage = namedtuple("Usage", "total used free")


def test_a_disk_is_not_filled(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    size = COUNT * 3 * 8 * 8
    config = FolderConfig(path=str(images))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 2 * size - 1))
    assert load_dataset(config).decodes
    assert "decoded during training" in caplog.text and not list(cache_root().iterdir())
    requested = config.model_copy(update={"cache": str(tmp_path / "mine")})
    assert isinstance(load_dataset(requested), MappedSet)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, size - 1))
    with pytest.raises(UsageError, match=r"cache=.*elsewhere.* GB are free"):
        load_dataset(config.model_copy(update={"cache": str(tmp_path / "elsewhere")}))


def test_a_disk_that_fails_costs_the_cache_and_not_the_set(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def write(self, content: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    created = cache_module.CacheWriter.__init__

    def with_full_disk(self: cache_module.CacheWriter, *arguments: object) -> None:
        created(self, *arguments)  # type: ignore[arg-type]
        self._pixels.close()
        self._pixels = Full()  # type: ignore[assignment]

    monkeypatch.setattr(cache_module.CacheWriter, "__init__", with_full_disk)
    config = FolderConfig(path=str(images))
    dataset = load_dataset(config)
    assert dataset.decodes and "No space left" in caplog.text and not list(cache_root().iterdir())
    assert same(dataset, load_dataset(config.model_copy(update={"cache": "none"})))


def test_a_file_added_while_the_set_is_read_makes_it_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that came after the listing is not in the set, and must not be in its stamp."""
    listed = encoded.load_encoded

    def late(*arguments: object, **options: object) -> Dataset:
        monkeypatch.undo()
        monkeypatch.setattr(encoded, "MAX_BYTES_IN_MEMORY", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(images.parent / "cache"))
        write_image(images / "a" / "late.png", 99)
        return listed(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("undiffuse.data.sources.folder.load_encoded", late)
    config = FolderConfig(path=str(images))
    assert len(load_dataset(config)) == COUNT
    again = load_dataset(config)
    assert len(again) == COUNT + 1 and isinstance(again, MappedSet)
    assert open_cached(config) is not None


def test_a_place_that_cannot_be_written_to(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot cache decoded images in data\.cache="):
        load_dataset(FolderConfig(path=str(images), cache=str(tmp_path / "file")))
    (tmp_path / "cache").write_text("")
    assert load_dataset(FolderConfig(path=str(images))).decodes and "decoded during training" in caplog.text


def test_a_set_that_fits_into_memory_is_kept_only_where_requested(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    config = FolderConfig(path=str(images))
    in_memory = load_dataset(config)
    assert isinstance(in_memory, ArrayDataset)
    kept = load_dataset(config.model_copy(update={"cache": str(tmp_path / "mine")}))
    assert isinstance(kept, MappedSet) and same(kept, in_memory)


def test_a_damaged_image_leaves_nothing_behind_and_a_skipped_one_is_reported_again(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "a" / "00.png").write_bytes(b"")
    config = FolderConfig(path=str(images), size=8, channels=3)
    with pytest.raises(UsageError, match="empty"):
        load_dataset(config)
    assert not list(cache_root().iterdir())
    skipping = config.model_copy(update={"on_error": "skip"})
    assert len(load_dataset(skipping)) == COUNT - 1
    caplog.clear()
    assert len(load_dataset(skipping)) == COUNT - 1 and "1 file left out" in caplog.text
    plain = load_dataset(skipping.model_copy(update={"cache": "none"}))
    assert same(plain, load_dataset(skipping))


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(images: Path) -> None:
    config = FolderConfig(path=str(images))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    name = cache_folder_of(config).name
    theirs = cache_root() / f".{name}.{os.getppid()}.pixels.tmp"
    for path in (cache_root() / f".{name}.{dead.stdout.strip()}.pixels.tmp", theirs):
        path.mkdir(parents=True)
    load_dataset(config)
    assert sorted(path.name for path in cache_root().iterdir()) == sorted([theirs.name, name])


def test_the_stamp_follows_links_and_ends_in_a_loop_of_them(images: Path) -> None:
    config = FolderConfig(path=str(images))
    (images / "a" / "loop").symlink_to(images)
    (images / "dangling.png").symlink_to(images / "nowhere")
    before = stamp_of(config)
    assert before == stamp_of(config)
    (images / ".hidden").write_text("not looked at")
    assert stamp_of(config) == before


def test_mapped_texts_are_texts(tmp_path: Path) -> None:
    texts = ["", "one", "zwei Wörter", "\udcff", ""]
    write_strings(tmp_path, "some", texts)
    buffer = np.fromfile(tmp_path / "some.utf8", dtype=np.uint8)
    mapped = MappedStringArray(buffer, np.fromfile(tmp_path / "some.i64", dtype=np.int64))
    assert list(mapped) == texts and mapped[-3] == "zwei Wörter" and list(mapped[1:4]) == texts[1:4]
    assert list(mapped.select(np.array([3, 1, 2])).select(np.array([2, 0]))) == [texts[2], texts[3]]
    with pytest.raises(IndexError):
        mapped[5]
    with pytest.raises(TypeError):
        mapped.append("more")


MEMORY = """
import sys
from pathlib import Path
from undiffuse.data import Loader
from undiffuse.data.storage.mapped import MappedSet

def resident() -> dict[str, int]:
    # in KiB: the own memory of the process, and pages of files that it has mapped
    lines = map(str.split, Path("/proc/self/status").read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssFile:")}

Loader(MappedSet(Path(sys.argv[1])), 0).batch(0, 64)  # what the libraries need once
for folder in sys.argv[1:]:
    before = resident()
    loader = Loader(MappedSet(Path(folder)), 0)
    for step in range(60):
        batch = loader.batch(64 * step, 64)
        assert batch.given.label is not None and len(batch.captions) == 64
    print(*(resident()[kind] - before[kind] for kind in before))
"""


def synthetic(folder: Path, count: int) -> Path:
    """A set of 4x4 images with labels and captions, in the layout of the cache."""
    folder.mkdir()
    dataset = ArrayDataset("synthetic", np.zeros((count, 3, 4, 4), dtype=np.uint8), None, ("a", "b"))
    with (folder / PIXELS).open("wb") as file, (folder / CHECKS).open("wb") as checks:
        for start in range(0, count, 10_000):
            number, image = min(10_000, count - start), bytes([start % 256]) * 48
            file.write(image * number)
            checks.write(np.full(number, zlib.crc32(image), dtype="<u4").tobytes())
    np.zeros((count, 16), dtype=np.uint8).tofile(folder / "hashes.u8")
    (np.arange(count) % 2).astype("<i8").tofile(folder / "labels.i64")
    for name in ("titles", "captions"):
        (folder / f"{name}.utf8").write_bytes(b"some text." * count)
        (np.arange(count + 1) * 10).astype("<i8").tofile(folder / f"{name}.i64")
    write_info(folder, dataset, "")
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    small, large = synthetic(tmp_path / "small", 1_000), synthetic(tmp_path / "large", 1_000_000)
    assert sum(path.stat().st_size for path in large.iterdir()) > 100 * 2**20
    output = subprocess.check_output([sys.executable, "-c", MEMORY, str(small), str(large)], text=True)
    grown = [[int(text) for text in line.split()] for line in output.splitlines()]
    assert grown[1][0] - grown[0][0] < 2_000, grown
    assert grown[1][1] < 4 * 256 * 64  # four files, 64 KiB around each of the last 256 images at most
    print(grown)


@pytest.mark.parametrize(("what", "value"), [("DECODER_VERSION", 10**6), ("heic.version", lambda: "10.0")])
def test_what_was_decoded_otherwise_is_decoded_again(
    what: str, value: object, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FolderConfig(path=str(images))
    before = stamp_of(config)
    assert stamp_of(config) == before
    monkeypatch.setattr(f"undiffuse.data.storage.cache.{what}", value)
    assert stamp_of(config) != before
