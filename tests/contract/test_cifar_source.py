"""CIFAR in both of its layouts, sound, damaged and hostile."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from published_sets import (
    CIFAR10_NAMES,
    COUNT,
    Pickle2,
    archived,
    cifar10_binary,
    cifar10_python,
    cifar100_python,
    records,
    write_records,
)

from undiffuse.data import CifarConfig, Dataset, load_dataset, source_config_for
from undiffuse.data.readers.pickled import read_pickle
from undiffuse.errors import UsageError


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(CifarConfig(path=str(path), **options))  # type: ignore[arg-type]


def labels_of(found: Dataset) -> list[int]:
    assert found.labels is not None
    return found.labels.tolist()


def images(found: Dataset) -> np.ndarray:
    return found.items(np.arange(len(found)))


def planes(seed: int) -> np.ndarray:
    return records(COUNT, seed).reshape(-1, 3, 32, 32)


def test_binary_batches_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = load(cifar10_binary(tmp_path, batches=11))
    assert len(found) == 11 * COUNT and found.shape == (3, 32, 32)
    expected = np.concatenate([planes(number) for number in range(1, 12)])  # 10 comes after 2, not before
    assert np.array_equal(images(found), expected)
    assert labels_of(found) == (np.arange(COUNT) % 10).tolist() * 11
    assert list(found.class_names) == CIFAR10_NAMES
    test = load(tmp_path, split="test")
    assert np.array_equal(images(test), planes(99)) and labels_of(test)[0] == (COUNT - 1) % 10


def test_the_python_layout_gives_the_same_set(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "p").mkdir()
    binary, python = load(cifar10_binary(tmp_path / "b")), load(cifar10_python(tmp_path / "p"))
    assert binary.fingerprint == python.fingerprint and labels_of(binary) == labels_of(python)
    assert np.array_equal(images(load(tmp_path / "p", split="test")), planes(99))
    alone = load(tmp_path / "p" / "test_batch")
    assert np.array_equal(images(alone), planes(99))


def test_cifar100_has_a_fine_and_a_coarse_label_in_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "p").mkdir()
    python = cifar100_python(tmp_path / "p")
    fine = [(7 * number) % 100 for number in range(COUNT)]
    write_records(tmp_path / "b" / "train.bin", [np.array(fine) % 20, np.array(fine)], seed=1)
    (tmp_path / "b" / "fine_label_names.txt").write_text("".join(f"fine{n}\n" for n in range(100)))
    for folder in (python, tmp_path / "b"):
        found = load(folder)
        assert labels_of(found) == fine and found.class_names[99] == "fine99" and found.num_classes == 100
        coarse = load(folder, label="coarse")
        assert labels_of(coarse) == [number % 20 for number in fine] and coarse.num_classes == 20
        assert np.array_equal(images(found), planes(1)) and "CIFAR-100" in found.provenance["source"]
    assert load(python, label="coarse").class_names[3] == "c3"
    assert load(tmp_path / "b", label="coarse").class_names[3] == "3"  # its names are not there


@pytest.mark.parametrize("form", ["cifar-10-batches-bin", "cifar-10-batches-py"])
def test_the_published_archive_is_read_in_memory(tmp_path: Path, form: str) -> None:
    folder = tmp_path / form
    folder.mkdir()
    (cifar10_binary if form.endswith("bin") else cifar10_python)(folder)
    path = archived(folder, tmp_path / f"{form}.tar.gz", form)
    found = load(path)
    assert found.fingerprint == load(folder).fingerprint
    assert np.array_equal(images(load(path, split="test")), planes(99))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([form, path.name])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="damaged or cut short") as caught:
        load_dataset(source_config_for(str(path)))
    assert str(caught.value).startswith(str(path))


def test_what_is_named_on_the_command_line_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "py").mkdir()
    (tmp_path / "hundred").mkdir()
    inner = tmp_path / "outer" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    cifar10_binary(inner), cifar10_python(tmp_path / "py"), cifar100_python(tmp_path / "hundred")
    odd = write_records(tmp_path / "some.bin", [np.arange(COUNT) % 10])
    archive = archived(inner, tmp_path / "renamed.tar.gz", "cifar-10-batches-bin")
    paths = [inner, inner.parent, inner / "data_batch_1.bin", tmp_path / "py", tmp_path / "py" / "data_batch_1"]
    for path in [*paths, tmp_path / "hundred", tmp_path / "hundred" / "train", odd, archive]:
        config = source_config_for(str(path))
        assert config.name == "cifar", path
        assert len(load_dataset(config)) == COUNT


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    cifar10_binary(tmp_path, batches=3)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(UsageError, match="data_batch_2 is missing among 2"):
        load(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(UsageError, match=r"no batch of the split 'test'; expected test_batch\.bin"):
        load(tmp_path, split="test")
    with pytest.raises(UsageError, match="is of the split 'train', not 'test'"):
        load(tmp_path / "data_batch_1.bin", split="test")
    with pytest.raises(UsageError, match="no such file or folder"):
        load(tmp_path / "nothing")
    cifar10_python(tmp_path)
    with pytest.raises(UsageError, match="the binary and the Python layout"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are not a whole number"),
        (bytes(3073 * 2 - 1), "6145 bytes are not a whole number of CIFAR records"),
        (b"\x0a" + bytes(3072), r"record 0 has the label 10; expected 0\.\.9"),
        (bytes(3073) + b"\xff" + bytes(3072), "record 1 has the label 255"),
        (b"\x14\x00" + bytes(3072), r"label 20; expected 0\.\.19"),
    ],
)
def test_damaged_records_are_reported(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(source_config_for(str(path)))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "none"}, "has no images"),
        ({"data": records()[:, :3000]}, "has no images"),
        ({"labels": "none"}, "has no labels"),
        ({"labels": [0, 1]}, "2 labels for 12 images"),
        ({"labels": [300] * COUNT}, "has no labels"),
        ({"labels": [11] * COUNT}, "label 11; expected"),
    ],
)
def test_python_batches_of_another_form_are_reported(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(Pickle2().of({"data": records(), "labels": [1] * COUNT, **changes}))
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_names_of_classes_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    cifar10_binary(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=r"batches\.meta\.txt: 2 class names; expected 10"):
        load(tmp_path)


def test_the_reader_of_pickles_reads_old_and_new_texts() -> None:
    assert read_pickle(b"(dp1\nS'num'\np2\nI7\nsS'names'\np3\n(lp4\nS'cat'\np5\naS'dog'\np6\nas.", "x") == {
        "num": 7,
        "names": ["cat", "dog"],
    }
    assert read_pickle(b"\x80\x02}q\x01(X\x01\x00\x00\x00a(K\x01K\x02tq\x02X\x01\x00\x00\x00bh\x02u.", "x") == {
        "a": (1, 2),
        "b": (1, 2),
    }


def array_of(content: bytes, shape: bytes, calls: bytes = b"cnumpy.core.multiarray\n_reconstruct\n") -> bytes:
    """A pickle of {"data": array} whose parts can be exchanged."""
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    created = calls + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    text = b"T" + struct.pack("<i", len(content)) + content
    return b"\x80\x02}(U\x04data" + created + b"(K\x01" + shape + kind + b"\x89" + text + b"tbu."


def test_an_array_by_rows_and_one_by_columns() -> None:
    by_rows = array_of(bytes(range(6)), b"K\x02K\x03\x86")
    assert read_pickle(by_rows, "x")["data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    by_columns = by_rows.replace(b"\x89T", b"\x88T")
    assert read_pickle(by_columns, "x")["data"].tolist() == [[0, 2, 4], [1, 3, 5]]


HOSTILE = {
    "os.system": (b"cos\nsystem\n(S'touch pwned'\ntR.", r"imports 'os\.system'"),
    "eval, newer name": (b"\x80\x02cbuiltins\neval\nU\x041+1\x85R.", r"imports 'builtins\.eval'"),
    "instance": (b"(ios\nsystem\n.", "instruction INST"),
    "a name from the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "instruction SHORT_BINUNICODE"),
    "a name from texts": (b"\x80\x02U\x02osU\x06system\x93.", "instruction STACK_GLOBAL"),
    "persistent": (b"Pfile:///etc/passwd\n.", "instruction PERSID"),
    "persistent from the stack": (b"\x80\x02U\x01xQ.", "instruction BINPERSID"),
    "extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
    "new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
    "object": (b"(cnumpy\nndarray\no.", "instruction OBJ"),
    "calls an array": (b"\x80\x02cnumpy\nndarray\nU\x01x\x85R.", "calls something other than"),
    "calls a list": (b"\x80\x02](U\x01x\x85R.", "runs empty|calls something other than"),
    "reconstructs another": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nU\x01x\x85R.",
        "calls something other than",
    ),
    "other elements": (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "calls something other than"),
    "state of a dictionary": (b"\x80\x02}}b.", "sets the state of an object without state"),
    "shape too large": (array_of(b"abcd", b"J\x00\x00\x00\x40J\x00\x00\x00\x40\x86"), "4 bytes with the shape"),
    "negative shape": (array_of(b"abcd", b"J\xfc\xff\xff\xffJ\xff\xff\xff\xff\x86"), "form that CIFAR's files"),
    "no content": (array_of(b"", b"]"), "form that CIFAR's files"),
    "no dictionary": (b"\x80\x02].", "contains no dictionary"),
    "a dictionary of numbers": (b"\x80\x02}(K\x01K\x02u.", "keys are not strings"),
    "odd pairs": (b"\x80\x02}(U\x01xu.", "keys are not strings"),
    "no mark": (b"\x80\x02}u.", "a mark is missing"),
    "empty stack": (b"\x80\x02.", "runs empty"),
    "takes a mark": (b"\x80\x02(.", "runs empty"),
    "adds to a number": (b"\x80\x02K\x01K\x02a.", "not a list"),
    "recalls nothing": (b"\x80\x02h\x07.", "reads a memo entry that was never stored"),
    "no end": (b"\x80\x02}", "damaged or cut short"),
    "nothing": (b"", "damaged or cut short"),
    "unknown": (b"\xff\xff", "damaged or cut short"),
    "cut text": (b"\x80\x02T\xff\xff\xff\x7fabc", "damaged or cut short"),
    "negative text": (b"\x80\x02T\xff\xff\xff\xffabc", "damaged or cut short"),
    "endless number": (b"I" + b"9" * 100_000 + b"\n.", "damaged or cut short"),
    "long name": (b"c" + b"x" * 100_000 + b"\ny\n.", "imports"),
    "surrogates": (b"\x80\x02X\x03\x00\x00\x00\xff\xfe\xfd.", "damaged or cut short"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_pickle_is_rejected_in_one_line(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[how]
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < 400
    assert [entry.name for entry in tmp_path.iterdir()] == ["data_batch_1"]


def many_arrays(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """One text of a thousand bytes that eleven arrays are made of."""
    monkeypatch.setattr("undiffuse.data.readers.pickled.MAX_BYTES", 10_500)
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    one = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01M\xe8\x03\x85"
    return b"\x80\x02T" + struct.pack("<i", 1000) + bytes(1000) + b"q\x00(" + (one + kind + b"\x89h\x00tb") * 11 + b"l."


def many_steps(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr("undiffuse.data.readers.pickled.MAX_STEPS", 1000)
    return b"\x80\x02" + b"]q\x00" * 600 + b"."


def too_long(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr("undiffuse.data.readers.pickled.MAX_BYTES", 1000)
    return b"\x80\x02" + b"N" * 1000


def doubled(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Forty lists of twice the one before: a billion laughs, which cost nothing as long as nobody looks into them."""
    return b"\x80\x02]q\x00" + b"".join(b"(h%ch%clq%c" % (n, n, n + 1) for n in range(40)) + b"."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (many_arrays, "arrays have more than"),
        (many_steps, "more than 1000 instructions"),
        (too_long, "1002 bytes are more than the 1000"),
        (doubled, "contains no dictionary"),
    ],
)
def test_a_pickle_cannot_grow(
    make: Callable[[pytest.MonkeyPatch], bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make(monkeypatch)
    with pytest.raises(UsageError, match=message):
        read_pickle(content, "x")


def test_every_cut_of_a_batch_is_an_error_of_ours() -> None:
    whole = Pickle2().of({"data": records(1), "labels": [3]})
    assert list(read_pickle(whole, "x")) == ["data", "labels"]
    for length in [*range(0, 250), *range(len(whole) - 60, len(whole))]:
        with pytest.raises(UsageError):
            read_pickle(whole[:length], "x")


def test_changed_bytes_give_an_error_of_ours_or_plain_values() -> None:
    whole, rng = Pickle2().of({"data": records(1)[:, :8], "labels": [3]}), np.random.default_rng(0)
    for _ in range(2000):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            content[place] = rng.integers(256)
        try:
            found = read_pickle(bytes(content), "x")
        except UsageError:
            continue
        assert all(isinstance(value, (int, str, list, tuple, dict, np.ndarray, type(None))) for value in found.values())


def test_real_cifar_records(shared_data: Path) -> None:
    config = source_config_for(str(shared_data / "cifar10"))
    found = load_dataset(config)
    assert len(found) == 4000 and labels_of(found)[:5] == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert min(np.bincount(labels_of(found))) > 300
    assert len(load(shared_data / "cifar10", split="test")) == 1000


def test_a_batch_that_comes_twice_in_an_archive_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive, earlier = tmp_path / "cifar-10-binary.tar", tmp_path / "earlier"
    earlier.mkdir()
    write_records(earlier / "data_batch_1.bin", [np.arange(COUNT) % 10], seed=7)
    (tmp_path / "whole").mkdir()
    whole = cifar10_binary(tmp_path / "whole")
    with tarfile.open(archive, "w") as file:
        file.add(earlier / "data_batch_1.bin", "old/data_batch_1.bin")
        for path in sorted(path for path in whole.rglob("*") if path.is_file()):
            file.add(path, f"cifar-10-batches-bin/{path.name}")
    found = load(archive)
    assert found.fingerprint == load(whole).fingerprint
    line = "1 file whose name is repeated later: old/data_batch_1.bin"
    assert found.provenance["left_out"] == line and line in caplog.text
