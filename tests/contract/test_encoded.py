"""Encoded images wherever they lie: what is counted, held and hashed, and what it costs."""

from __future__ import annotations

import copy
import hashlib
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from image_files import is_of, pixels, png, write_tar, write_tree, write_zip

from undiffuse.data import Dataset, FolderConfig, TarConfig, ZipConfig, load_dataset, split_by_content
from undiffuse.data.config import EncodedConfig
from undiffuse.data.dataset import ArrayDataset, hash_rows
from undiffuse.data.readers.decoding.image import read_header, read_image
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError

CLASSED = {f"{name}/{index}.png": png(10 * place + index) for place, name in enumerate("abc") for index in range(4)}


class InMemory(EncodedFiles):
    """Files that are nothing but bytes."""

    def __init__(self, contents: list[bytes]) -> None:
        super().__init__(Path("memory"))
        self.contents, self.num_read, self.released = contents, 0, False

    def __len__(self) -> int:
        return len(self.contents)

    def title(self, index: int) -> str:
        return f"memory!{index}"

    def read(self, index: int) -> bytes:
        self.num_read += 1
        return self.contents[index]

    def release(self) -> None:
        self.released = True


def everywhere(folder: Path) -> list[Dataset]:
    """The same images from a folder, an archive and a shard."""
    write_tree(folder / "tree", CLASSED)
    write_zip(folder / "set.zip", CLASSED)
    write_tar(folder / "set.tar", CLASSED)
    configs = [FolderConfig(path=str(folder / "tree")), ZipConfig(path=str(folder / "set.zip"))]
    return [load_dataset(config) for config in (*configs, TarConfig(path=str(folder / "set.tar")))]


def test_folder_zip_and_tar_of_the_same_images_are_the_same_set(tmp_path: Path) -> None:
    sets = everywhere(tmp_path)
    assert [found.name for found in sets] == ["folder", "zip", "tar"]
    assert len({found.fingerprint for found in sets}) == 1
    for found in sets:
        assert found.class_names == ("a", "b", "c") and found.labels is not None
        assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert is_of(found, 5, 11) and found.captions is None and found.fetch([1]).captions == ()


def test_fingerprint_and_split_are_those_of_hashes_held_one_by_one(tmp_path: Path) -> None:
    """The definition, written out anew with one ``bytes`` an image: saved runs name fingerprints made so."""
    dataset = everywhere(tmp_path)[0]
    contents = [pixels(10 * place + index) for place in range(3) for index in range(4)]
    hashes = [hashlib.blake2b(b"8x8:" + content.tobytes(), digest_size=16).digest() for content in contents]
    options = "size=8x8 channels=3 fit=crop upscale=False background=255"
    digest = hashlib.blake2b(repr(((3, 8, 8), ("a", "b", "c"), options)).encode(), digest_size=16)
    digest.update(b"".join(hashes) + np.repeat(np.arange(3), 4).astype("<i8").tobytes())
    assert dataset.fingerprint == digest.hexdigest()
    assert list(map(bytes, dataset.hashes())) == hashes
    held_out = [row for row, item in enumerate(hashes) if int.from_bytes(item[:8], "big") / 2**64 < 0.4]
    train, validation = split_by_content(dataset, 0.4)
    assert 0 < len(held_out) < 12 and list(map(bytes, validation.hashes())) == [hashes[row] for row in held_out]
    assert len(train) + len(validation) == 12


def test_a_split_that_would_hold_out_all_keeps_the_largest_hash() -> None:
    points = np.arange(6, dtype=np.float32).reshape(3, 2)[[0, 1, 1]]
    train, validation = split_by_content(ArrayDataset("points", points), 1 - 2**-53)
    assert len(train) + len(validation) == 3 and len(train) in (1, 2)
    assert bytes(train.hashes()[0]) == max(map(bytes, hash_rows(points)))
    empty = ArrayDataset("points", points[:0])
    assert [len(part) for part in split_by_content(empty, 0.5)] == [0, 0]


def test_captions_go_with_items_subsets_and_fingerprints() -> None:
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    plain, captioned = ArrayDataset("points", points), ArrayDataset("points", points, captions=["one", "", "three ü"])
    assert plain.fingerprint != captioned.fingerprint
    assert captioned.fingerprint != ArrayDataset("points", points, captions=["one", "x", "three ü"]).fingerprint
    assert captioned.fetch([2, 0]).captions == ("three ü", "one")
    assert captioned.fetch([2]).to("cpu").captions == ("three ü",)
    part = captioned.subset([2, 1, 0]).subset([0, 2])
    assert part.captions == ["three ü", "one"] and part.fetch([1]).captions == ("one",)
    assert plain.subset([0]).captions is None


def test_texts_are_a_sequence_and_select_without_copying() -> None:
    names = ["", "a", "déjà/vu.png", "caf\udce9", "x" * 300]
    texts = StringArray(names)
    assert list(texts) == names and texts == names and texts[-1] == "x" * 300 and texts[1:3] == names[1:3]
    assert texts.select(np.array([4, 0, 4])) == [names[4], "", names[4]]
    assert texts.select(np.array([], dtype=np.int64)) == [] and texts != names[:-1]
    with pytest.raises(IndexError):
        texts[5]
    assert copy.deepcopy(texts) == names
    assert StringArray(["ab", "c"]).joined() != StringArray(["a", "bc"]).joined()


def test_a_header_is_read_only_where_it_reports_something() -> None:
    files = InMemory([png(seed) for seed in range(3)])
    load_encoded(EncodedConfig(name="x", path="memory", size=8, channels=3), files)
    assert files.num_read == 3 and files.released
    again = InMemory(files.contents)
    load_encoded(EncodedConfig(name="x", path="memory", size=8), again)
    assert again.num_read == 6


@pytest.mark.parametrize("options", [{}, {"size": 8, "channels": 3}])
def test_skips_of_reader_and_decoder_are_counted_together(options: dict[str, object], caplog: object) -> None:
    files = InMemory([png(0), b"", png(1)[:-30], png(2), b"text", png(3)])
    config = EncodedConfig(name="x", path="memory", on_error="skip", **options)  # type: ignore[arg-type]
    labels, captions = [0, 1, 0, 1, 0, 1], list("abcdef")
    found = load_encoded(config, files, labels, ["no", "yes"], captions, {"licence": "CC0"})
    assert len(found) == 3 and found.labels is not None and found.labels.tolist() == [0, 1, 1]
    assert found.captions == ["a", "d", "f"] and found.item_name(1) == "memory!3" and is_of(found, 1, 2)
    assert found.provenance["skipped"].startswith("3 files left out: memory!1: the file is empty")
    assert found.provenance["licence"] == "CC0" and found.provenance["source"] == "memory"
    with pytest.raises(UsageError, match=r"memory!1: the file is empty .*on_error=skip"):
        load_encoded(EncodedConfig(name="x", path="memory", **options), files)  # type: ignore[arg-type]


def test_a_image_in_memory_is_read_like_a_file_and_named_by_its_title(tmp_path: Path) -> None:
    path = write_tree(tmp_path, {"x.png": png(3)}) / "x.png"
    assert read_header(png(3), title="here") == read_header(path)
    assert read_image(png(3), title="here").tobytes() == read_image(path).tobytes()
    for content, message in [(b"", "is empty"), (b"GIF89a", "damaged|not an image"), (png(3)[:-40], "damaged")]:
        with pytest.raises(UsageError, match=f"^a.zip!b: .*({message})"):
            read_image(content, title="a.zip!b")


def test_the_same_set_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = everywhere(tmp_path)
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 100)
    rows = np.array(random.Random(0).choices(range(12), k=40))
    for whole, config in zip(held, [FolderConfig, ZipConfig, TarConfig], strict=True):
        lazy = load_dataset(config(path=whole.provenance["source"], cache="none"))
        assert type(lazy) is not type(whole) and lazy.fingerprint == whole.fingerprint
        assert np.array_equal(lazy.items(rows), whole.items(rows)) and lazy.item_name(7) == whole.item_name(7)
        assert lazy.captions is None


def held_bytes(config: ZipConfig | TarConfig) -> int:
    """What our own code still holds when a set is loaded; Pillow keeps some objects for the next image."""
    tracemalloc.start()
    dataset = load_dataset(config)
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*undiffuse*")])
    tracemalloc.stop()
    assert len(dataset) > 0
    return sum(trace.size for trace in ours.traces)


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_image_costs_what_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Besides the pixels, and 30 bytes of name; what a loader has built and dropped on its way does not count."""
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 100)
    content, held = png(0, side=2), list[int]()
    for count in (100, 100, 500):  # at first, things are imported
        files = {f"{index // 100:05}/img{index:08}-thirty.png": content for index in range(count)}
        path = tmp_path / f"set.{ending}"
        (write_zip if ending == "zip" else write_tar)(path, files)
        held.append(held_bytes((ZipConfig if ending == "zip" else TarConfig)(path=str(path), cache="none")))
    assert (held[2] - held[1]) / 400 < 110
