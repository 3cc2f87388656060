"""LSUN's databases, written by LMDB itself, whole, damaged and of several categories."""

from __future__ import annotations

import copy
import io
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from published_sets import COUNT, encoded, lsun

from undiffuse.data import Dataset, LmdbConfig, load_dataset, source_config_for
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.lmdb_pages import read_values
from undiffuse.data.sources.lmdb import LmdbFiles
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(LmdbConfig(path=str(path), **{"size": 8, **options}))  # type: ignore[arg-type]


def database(folder: Path, values: dict[bytes, bytes], **options: object) -> Path:
    """A database that LMDB itself writes."""
    environment = lmdb.open(str(folder), map_size=2**27, **options)  # type: ignore[arg-type]
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    environment.close()
    return folder


def test_images_in_the_order_of_their_keys(tmp_path: Path) -> None:
    path = lsun(tmp_path)
    config = source_config_for(str(path))
    assert config.name == "lmdb" and source_config_for(str(path / "data.mdb")).name == "lmdb"
    found = load(path)
    assert len(found) == COUNT and found.labels is None and found.provenance["categories"] == "church_outdoor"
    assert found.item_name(3) == f"{path}/data.mdb!{3 * 7919:040x}"
    for item in range(1, COUNT, 2):  # the odd ones are of the training size
        image = np.asarray(Image.open(io.BytesIO(encoded(item, "webp"))).convert("RGB"))
        assert np.array_equal(found.items(np.array([item]))[0].transpose(1, 2, 0), image)
    assert np.array_equal(load(path / "data.mdb").hashes(), found.hashes())


def test_keys_and_values_are_those_that_lmdb_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {rng.bytes(20).hex().encode(): rng.bytes(int(rng.integers(0, 9000))) for _ in range(3000)}
    path = database(tmp_path / "big", values)
    environment = lmdb.open(str(path), map_size=2**27)
    with environment.begin(write=True) as transaction:  # some go, some are written anew: pages are used again
        for key in list(values)[::3]:
            transaction.delete(key)
        for key in list(values)[1::3]:
            transaction.put(key, values[key][::-1])
    with environment.begin() as transaction:
        expected = list(transaction.cursor())
    assert environment.stat()["depth"] > 1
    environment.close()
    file = FileAt(path / "data.mdb")
    found = read_values(file)
    assert [key.encode() for key in found.keys] == [key for key, _ in expected]
    assert [file.read(*place) for place in found.places.tolist()] == [value for _, value in expected]


def test_several_categories_are_the_classes(tmp_path: Path) -> None:
    lsun(tmp_path, "tower_train_lmdb", first=100)
    lsun(tmp_path, "bridge_train_lmdb")
    lsun(tmp_path, "bridge_val_lmdb", first=200)
    config = source_config_for(str(tmp_path))
    assert config.name == "lmdb"
    found = load(tmp_path)
    assert found.class_names == ("bridge", "tower") and found.labels is not None
    assert found.labels.tolist() == [0] * COUNT + [1] * COUNT
    assert load(tmp_path, labels="none").labels is None
    assert " left out (data.split= selects others)" in found.provenance["splits"]
    val = load(tmp_path, split="val")
    assert len(val) == COUNT and "bridge_val_lmdb" in val.item_name(0) and val.labels is None
    with pytest.raises(UsageError, match="no folder of the split 'test'"):
        load(tmp_path, split="test")
    with pytest.raises(UsageError, match="is of the split 'train', not 'val'"):
        load(tmp_path / "tower_train_lmdb", split="val")


def test_damaged_values_are_reported_or_skipped(tmp_path: Path) -> None:
    values = {f"{n:040x}".encode(): encoded(n, "jpeg") for n in range(COUNT)}
    values[f"{5:040x}".encode()] = b"<html>"
    values[f"{7:040x}".encode()] = encoded(7, "jpeg")[:100]
    path = database(tmp_path / "x_train_lmdb", values)
    with pytest.raises(UsageError, match="not an image") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}/data.mdb!{5:040x}: ")
    found = load(path, on_error="skip")
    assert len(found) == COUNT - 2 and found.provenance["skipped"].startswith("2 files left out")


def test_what_is_no_database_is_reported(tmp_path: Path) -> None:
    path = lsun(tmp_path) / "data.mdb"
    whole = path.read_bytes()
    for content, message in [
        (b"", "0 bytes long"),
        (whole[:100], "100 bytes long"),
        (whole[: len(whole) // 2], "cut short: .* bytes of"),
        (whole[:16] + b"\0\0\0\0" + whole[20:], "no LMDB file"),
        (whole[:40] + struct.pack("<I", 12345) + whole[44:], "pages of 12345 bytes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message) as caught:
            load(path.parent)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(UsageError, match="no LMDB database"):
        load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no images in the database"):
        load(database(tmp_path / "empty_train_lmdb", {}))


def test_a_damaged_category_is_skipped_whole(tmp_path: Path) -> None:
    lsun(tmp_path, "tower_train_lmdb", first=100)
    (lsun(tmp_path, "bridge_train_lmdb") / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(UsageError, match=r"bridge_train_lmdb.*no LMDB file"):
        load(tmp_path)
    assert len(load(tmp_path, on_error="skip")) == COUNT


def test_a_table_of_tables_is_rejected(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path / "x_lmdb"), max_dbs=2)
    environment.open_db(b"inner")
    environment.close()
    with pytest.raises(UsageError, match="not a key and its value"):
        load(tmp_path / "x_lmdb")


def test_a_tree_that_leads_back_to_its_root_ends(tmp_path: Path) -> None:
    path = database(tmp_path / "x", {f"{n:040x}".encode(): bytes(500) for n in range(300)}) / "data.mdb"
    content = bytearray(path.read_bytes())
    root = max(struct.unpack_from("<3Q", content, page * 4096 + 128)[::-1] for page in (0, 1))[2]
    node = struct.unpack_from("<H", content, root * 4096 + 16)[0]
    struct.pack_into("<H", content, root * 4096 + node, root)  # the low half of the page below
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"damaged: page {root} is referenced twice"):
        read_values(FileAt(path))


def test_changed_pages_give_an_error_of_ours_or_values_within_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = database(tmp_path / "x", {rng.bytes(20).hex().encode(): rng.bytes(500) for _ in range(300)}) / "data.mdb"
    whole, size, reported = path.read_bytes(), path.stat().st_size, 0
    for trial in range(150):
        content = bytearray(whole)
        for page in rng.integers(0, size // 4096, 4):  # the heads of pages, where the pointers are
            content[page * 4096 + rng.integers(0, 200)] = rng.integers(256)
        other = tmp_path / f"{trial}.mdb"
        other.write_bytes(content)
        try:
            found = read_values(FileAt(other))
        except UsageError as error:
            reported += str(error).startswith(str(other))
            continue
        assert len(found.places) < 3000 and (found.places.sum(axis=1) <= size).all()
    assert reported > 20


def test_threads_and_copies_read_the_same(tmp_path: Path) -> None:
    path = lsun(tmp_path) / "data.mdb"
    file = FileAt(path)
    files = LmdbFiles(path, [file], [read_values(file)])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, list(range(COUNT)) * 9)) == [encoded(n, "webp") for n in range(COUNT)] * 9
    other = copy.deepcopy(files)
    files.release()
    assert other.read(3) == encoded(3, "webp")


def test_reading_needs_no_lmdb(tmp_path: Path) -> None:
    path = lsun(tmp_path)
    (path / "lock.mdb").unlink()
    code = (
        "import sys; sys.modules['lmdb'] = None; from undiffuse.data import LmdbConfig, load_dataset; "
        f"print(len(load_dataset(LmdbConfig(path={str(path)!r}, size=8))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(COUNT)
    assert (
        not (path / "lock.mdb").exists()
        or (path / "lock.mdb").stat().st_mtime <= (path / "data.mdb").stat().st_mtime + 5
    )
