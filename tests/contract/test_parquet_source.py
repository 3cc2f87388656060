"""Parquet and Arrow tables as ``datasets`` writes them: whole, in shards, damaged, read by threads and processes."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from image_files import is_of, png
from published_sets import COUNT, parquet, table

from undiffuse.data import Dataset, ParquetConfig, load_dataset, source_config_for
from undiffuse.data.readers import tables
from undiffuse.data.readers.tables import MAX_GROUPS, Tables
from undiffuse.data.sources.parquet import TableFiles
from undiffuse.data.storage import encoded
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(ParquetConfig(path=str(path), **options))  # type: ignore[arg-type]


def written(path: Path, content: pyarrow.Table, rows: int = 4) -> Path:
    """A table in the form that its name says: Parquet, Arrow's file, or its stream (``.stream.arrow``)."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(content, path, row_group_size=rows)
        return path
    make = pyarrow.ipc.new_stream if path.name.endswith(".stream.arrow") else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, make(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)
    return path


def labels_of(found: Dataset) -> list[int]:
    assert found.labels is not None
    return found.labels.tolist()


@pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.stream.arrow"])
def test_a_table_of_each_form_with_names_and_captions(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, table())
    config = source_config_for(str(path))
    assert config.name == "parquet"
    found = load_dataset(config)
    assert len(found) == COUNT and all(is_of(found, item, item) for item in range(COUNT))
    assert found.class_names == ("cat", "dog", "owl") and labels_of(found) == [n % 3 for n in range(COUNT)]
    assert found.captions is not None and list(found.captions)[5] == "image 5"
    assert found.item_name(9) == f"{path} row 9"
    assert found.provenance["image_column"] == "image" and found.provenance["label_column"] == "label"
    bare = load(path, labels="none", captions="none")
    assert bare.labels is None and bare.captions is None


def test_shards_of_a_split_in_their_order(tmp_path: Path) -> None:
    found = load_dataset(source_config_for(str(parquet(tmp_path))))
    assert len(found) == COUNT and all(is_of(found, item, item) for item in range(COUNT))
    assert found.item_name(7) == f"{tmp_path}/train-00001-of-00002.parquet row 1"
    assert found.provenance["shards"] == "2"
    test = load(tmp_path, split="test")
    assert len(test) == 4 and is_of(test, 0, 100)
    with pytest.raises(UsageError, match=r"no table of the split 'dev'; choose one of data.split=test, train"):
        load(tmp_path, split="dev")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001-0123456789abcdef.parquet", "train"),
        ("train/data-00000-of-00001.arrow", "train"),
        ("mnist-train.arrow", "train"),
        ("imagefolder-validation-00000-of-00001.arrow", "validation"),
        ("whatever.parquet", "whatever"),
    ],
)
def test_the_names_that_datasets_gives(tmp_path: Path, name: str, split: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    written(path, table())
    if path.parent.name == "train":
        (path.parent / "dataset_info.json").write_text("{}")
    config = source_config_for(str(tmp_path))
    assert config.name == "parquet"
    assert len(load_dataset(config)) == COUNT and len(load(tmp_path, split=split)) == COUNT


def test_a_missing_shard_is_reported_or_skipped(tmp_path: Path) -> None:
    parquet(tmp_path)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(UsageError, match="1 of 2 shards are missing, the first 00000-of-00002"):
        load(tmp_path)
    found = load(tmp_path, on_error="skip")
    assert len(found) == COUNT // 2 and "00000-of-00002" in found.provenance["skipped"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    content = table(count=6).drop_columns(["caption"]).rename_columns(["photo", "fine"])
    features = {
        "photo": {"_type": "Image"},
        "fine": {"names": list("abc"), "_type": "ClassLabel"},
        "coarse": {"names": ["x", "y"], "_type": "ClassLabel"},
    }
    content = content.append_column("coarse", pyarrow.array([0, 1] * 3))
    content = content.append_column("title", pyarrow.array([f"  t{n}\n" for n in range(6)]))
    content = content.append_column("thumb", pyarrow.array([png(50 + n) for n in range(6)]))
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    path = written(tmp_path / "set.parquet", content.replace_schema_metadata(meta))
    found = load(path)
    assert found.class_names == ("a", "b", "c") and is_of(found, 1, 1)
    assert found.captions is not None and found.captions[2] == "t2"
    assert found.provenance["other_classes"] == "coarse (data.label_column= selects one)"
    other = load(path, label_column="coarse", image_column="thumb")
    assert labels_of(other) == [0, 1] * 3 and other.class_names == ("x", "y") and is_of(other, 1, 51)
    for options, message in [
        ({"label_column": "fin"}, "no column 'fin'; did you mean 'fine'"),
        ({"image_column": "title"}, r"no column of images \(title\)"),
        ({"caption_column": "coarse"}, "caption_column=coarse is not a column of text"),
        ({"label_column": "thumb"}, "values of type binary are not classes"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            load(path, **options)
        assert str(caught.value).startswith(str(path))


def test_plain_bytes_and_labels_that_are_texts_or_bare_numbers(tmp_path: Path) -> None:
    cells = [png(n) for n in range(6)]
    plain = written(tmp_path / "a.parquet", pyarrow.table({"jpg": cells, "label": ["b", "a"] * 3}))
    found = load(plain)
    assert found.class_names == ("a", "b") and labels_of(found) == [1, 0] * 3
    numbers = written(tmp_path / "b.parquet", pyarrow.table({"jpg": cells, "label": [2, 0] * 3}))
    assert load(numbers).class_names == ("0", "1", "2")
    none = written(tmp_path / "c.parquet", pyarrow.table({"jpg": cells, "label": [-1] * 6}))  # of a hidden test part
    assert load(none).labels is None
    with pytest.raises(UsageError, match="no column of images"):
        load(written(tmp_path / "d.parquet", pyarrow.table({"x": [1, 2]})))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no cell": (
        {"image": [{"bytes": png(n), "path": None} if n != 5 else None for n in range(COUNT)]},
        "cell is empty",
    ),
    "no bytes": (
        {"image": [{"bytes": png(n) if n != 5 else None, "path": "5.png"} for n in range(COUNT)]},
        "its image is in a separate file",
    ),
    "damaged": (
        {"image": [{"bytes": png(n) if n != 5 else png(n)[:60], "path": None} for n in range(COUNT)]},
        "damaged or cut short",
    ),
    "no image": (
        {"image": [{"bytes": png(n) if n != 5 else b"<html>", "path": None} for n in range(COUNT)]},
        "not an image",
    ),
    "no label": ({"label": [n % 3 if n != 5 else None for n in range(COUNT)]}, "has no label though others have"),
    "label -1": ({"label": [n % 3 if n != 5 else -1 for n in range(COUNT)]}, "has no label though others have"),
}


@pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.stream.arrow"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_row_that_cannot_be_used_is_reported_or_skipped(tmp_path: Path, how: str, name: str) -> None:
    changes, message = BROKEN[how]
    path = written(tmp_path / name, table(**changes))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path} row 5")
    found = load(path, on_error="skip")
    assert len(found) == COUNT - 1 and is_of(found, 5, 6) and found.item_name(5) == f"{path} row 6"
    assert labels_of(found) == [n % 3 for n in range(COUNT) if n != 5]
    assert found.provenance["skipped"].startswith(f"1 file left out: {path} row 5")


def test_labels_that_do_not_fit_the_names_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "set.parquet", table(label=[7] * COUNT))
    with pytest.raises(UsageError, match="label 7, but only 3 class names"):
        load(path)
    with pytest.raises(UsageError, match="label -2; expected class numbers"):
        load(written(path, table(label=[-2] * COUNT)))


@pytest.mark.parametrize(
    "metadata",
    [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": [1]}}}}', b"\xff", b"[" * 9999],
)
def test_metadata_of_another_form_is_reported(tmp_path: Path, metadata: bytes) -> None:
    path = written(tmp_path / "set.parquet", table().replace_schema_metadata({b"huggingface": metadata}))
    with pytest.raises(UsageError, match=r"Hugging Face metadata|not a list of strings") as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.stream.arrow"])
def test_damaged_tables_are_reported(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, table())
    whole = path.read_bytes()
    for content in (b"", whole[:3], whole[:50], whole[: len(whole) // 2], b"\x89PNG" * 30):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged, cut short or not a table") as caught:
            load_dataset(source_config_for(str(path)))
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_damaged_shard_is_skipped_whole(tmp_path: Path) -> None:
    parquet(tmp_path)
    path = tmp_path / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="on_error=skip"):
        load(tmp_path)
    found = load(tmp_path, on_error="skip")
    assert len(found) == COUNT // 2 and is_of(found, 0, COUNT // 2)
    other = tmp_path / "train-00001-of-00002.parquet"
    written(other, table().drop_columns(["caption"]))
    parquet_first = written(path, table(count=4))
    with pytest.raises(UsageError, match=f"its columns are not those of {parquet_first.name}"):
        load(tmp_path)


def test_changed_bytes_give_an_error_of_ours_or_a_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("set.parquet", "set.arrow", "set.stream.arrow"):
        whole = written(tmp_path / name, table()).read_bytes()
        for trial in range(60):
            content, path = bytearray(whole), tmp_path / f"{trial}.{name}"  # a new file: the old one may be mapped yet
            for place in rng.integers(0, len(whole), 3):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            try:
                load(path, on_error="skip")
            except UsageError as error:
                assert "\n" not in str(error)


def test_few_groups_are_held_and_threads_and_processes_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "MAX_BYTES_IN_MEMORY", 100)
    path = written(tmp_path / "set.parquet", table(count=80))
    found = load(path, cache="none")
    assert isinstance(found, encoded._Lazy)
    files = found._files
    assert isinstance(files, TableFiles)
    with ThreadPoolExecutor(8) as pool:
        rows = np.random.default_rng(0).integers(0, 80, 200)
        assert all(pool.map(lambda row: is_of(found, int(row), int(row)), rows))
    assert len(files._tables._cached) <= MAX_GROUPS
    assert is_of(copy.deepcopy(found), 70, 70)  # what another process is sent opens the files anew
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(FirstLevel(found), range(8)) == [FirstLevel(found)(row) for row in range(8)]


def test_a_fork_does_not_wait_for_a_lock_that_its_parent_held(tmp_path: Path) -> None:
    whole = Tables([written(tmp_path / "set.parquet", table())])
    context = multiprocessing.get_context("fork")
    found: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    with whole._lock:
        child = context.Process(target=lambda: found.put(whole.value(4, "label").as_py()))
        child.start()
    child.join(20)
    child.kill()
    assert child.exitcode == 0 and found.get() == 1


class FirstLevel:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, row: int) -> int:
        return int(self.dataset.items(np.array([row]))[0, 0, 0, 0])


@pytest.mark.parametrize("ending", ["parquet", "arrow", "stream.arrow"])
def test_more_shards_than_may_be_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(tables, "MAX_OPEN", 10)
    for number in range(14):
        written(tmp_path / f"train-{number:05}-of-00014.{ending}", table(number, 1))
    whole = Tables(sorted(tmp_path.iterdir()))
    gc.collect()  # pyarrow's readers may lie in cycles
    open_files = sum(1 for file in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(file.resolve()))
    assert open_files == 0 and [whole.value(row, "label").as_py() for row in range(14)] == [n % 3 for n in range(14)]


def test_each_group_is_decoded_once_in_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "set.parquet", table(count=40))
    read: list[int] = []
    column = tables.Table.column
    monkeypatch.setattr(
        tables.Table, "column", lambda self, group, name: read.append(group) or column(self, group, name)
    )
    whole = Tables([tmp_path / "set.parquet"])
    contents = [whole.value(row, "image")["bytes"].as_py() for row in range(40)]
    assert contents == [png(row) for row in range(40)] and read == list(range(10))


def test_without_pyarrow_one_line_reports_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "set.parquet", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'undiffuse\[parquet\]'"):
        load(path)


def images(count: int = 3) -> list[dict[str, object]]:
    """Cells of a column of images, the noise of seeds 0, 1, ..."""
    return [{"bytes": png(seed), "path": None} for seed in range(count)]


IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.stream.arrow"])
def test_columns_of_dictionaries_views_and_large_types(tmp_path: Path, name: str) -> None:
    labels, texts = ["owl", "cat", "owl"], ["x", "y", "x"]
    plain = {"image": images(), "label": labels, "text": texts}
    expected = load(written(tmp_path / f"plain.{name}", pyarrow.table(plain)))
    assert expected.class_names == ("cat", "owl") and expected.captions == texts
    columns = {
        "pandas' categories": (IMAGE, pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        "large": (pyarrow.large_binary(), pyarrow.large_string()),
    }
    if not name.endswith("parquet"):  # whose types these are not
        columns["views"] = (pyarrow.struct([("bytes", pyarrow.binary_view())]), pyarrow.string_view())
        columns["bare views"] = (pyarrow.binary_view(), pyarrow.string_view())
    for what, (image, text) in columns.items():
        cells = images() if pyarrow.types.is_struct(image) else [cell["bytes"] for cell in images()]
        arrays = [pyarrow.array(cells).cast(image) if "views" in what else pyarrow.array(cells, image)]
        arrays += [pyarrow.array(values).cast(text) for values in (labels, texts)]
        found = load(written(tmp_path / name, pyarrow.table(arrays, ["image", "label", "text"])))
        assert found.fingerprint == expected.fingerprint, what


@pytest.mark.parametrize("lacking", [None, "  "])
def test_a_row_without_a_caption_has_an_empty_one(tmp_path: Path, lacking: str | None) -> None:
    path = written(tmp_path / "set.parquet", table(caption=["x" if n != 5 else lacking for n in range(COUNT)]))
    found = load(path)
    assert found.captions == ["x" if n != 5 else "" for n in range(COUNT)]
    assert found.provenance["captions_missing"].startswith(f"1 of {COUNT} images have no caption")


def test_a_list_of_captions_are_alternatives_and_one_can_be_selected(tmp_path: Path) -> None:
    content = {
        "image": images(),
        "captions": [["a0", "a1"], ["b0"], ["c0", "c1"]],
        "url": ["", "", ""],
        "id": [1, 2, 3],
    }
    path = written(tmp_path / "set.parquet", pyarrow.table(content))
    found = load(path, caption_column="captions")
    assert found.captions == ["a0\na1", "b0", "c0\nc1"] and "left_out" not in found.provenance
    assert found.provenance["columns_not_read"] == "url, id"
    assert load(path, caption_column="captions", caption_index=1).captions == ["a1", "b0", "c1"]
    only = written(tmp_path / "only.parquet", pyarrow.table({"image": images(), "captions": [["a"], ["b"], ["c"]]}))
    assert load(only).captions == ["a", "b", "c"] and "left_out" not in load(only).provenance
    bare = written(tmp_path / "bare.parquet", pyarrow.table({"image": images()}))
    with pytest.raises(
        UsageError, match=r"caption_column=image is not a column of text; it has none; set data\.captions=none"
    ):
        load(bare, caption_column="image")


def test_labels_of_truth_values_are_two_classes(tmp_path: Path) -> None:
    found = load(written(tmp_path / "x.parquet", pyarrow.table({"image": images(), "label": [True, False, True]})))
    assert found.class_names == ("false", "true") and labels_of(found) == [1, 0, 1]


@pytest.mark.parametrize(
    "names", ["data/{}-00000-of-00001.parquet", "{}.parquet", "{}/0000.parquet", "flowers-{}.arrow"], ids=str
)
def test_splits_are_reported_and_known_in_any_case_and_by_what_they_mean(tmp_path: Path, names: str) -> None:
    for place, split in enumerate(("Train", "VAL", "test")):
        path = tmp_path / names.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        written(path, pyarrow.table({"image": [{"bytes": png(place), "path": None}]}))
    root = str(tmp_path)
    found = load_dataset(source_config_for(root))
    assert len(found) == 1 and is_of(found, 0, 0)
    assert found.provenance["splits"].startswith("tables by split: Train (1) used, VAL (1), test (1) left out")
    assert "left_out" not in found.provenance
    for requested, seed in (("val", 1), ("validation", 1), ("test", 2), ("train", 0)):
        assert is_of(load_dataset(source_config_for(root).model_copy(update={"split": requested})), 0, seed)
    assert len(load_dataset(source_config_for(root).model_copy(update={"split": "all"}))) == 3


def test_a_list_next_to_images_is_no_table_of_them(tmp_path: Path) -> None:
    written(tmp_path / "metadata.parquet", pyarrow.table({"file_name": ["0.png"], "text": ["x"]}))
    (tmp_path / "0.png").write_bytes(png(0))
    found = load_dataset(source_config_for(str(tmp_path)))
    assert found.name == "folder" and "metadata.parquet" in found.provenance["left_out"]
