"""EMNIST: the mapping next to its IDX files, and its MATLAB files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from published_sets import COUNT, emnist_mat, emnist_struct

from undiffuse.data import Dataset, EmnistConfig, IdxConfig, load_dataset, source_config_for
from undiffuse.data.readers import matlab
from undiffuse.data.sources.emnist_mapping import read_mapping
from undiffuse.errors import UsageError


def idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def idx_set(folder: Path, mapping: str, labels: list[int], name: str = "emnist-balanced") -> Path:
    idx(folder / f"{name}-train-images-idx3-ubyte", np.arange(len(labels) * 30).reshape(-1, 6, 5) % 251)
    idx(folder / f"{name}-train-labels-idx1-ubyte", np.array(labels))
    (folder / f"{name}-mapping.txt").write_text(mapping)
    return folder


def labels_of(found: Dataset) -> list[int]:
    assert found.labels is not None
    return found.labels.tolist()


def test_the_mapping_next_to_idx_files_names_the_classes(tmp_path: Path) -> None:
    found = load_dataset(IdxConfig(path=str(idx_set(tmp_path, "0 48\n1 65\n2 97\n", [2, 0, 1, 2]))))
    assert found.class_names == ("0", "A", "a") and labels_of(found) == [2, 0, 1, 2]
    assert found.provenance["transposed"] == "yes"


def test_a_mapping_that_counts_from_one_and_has_two_codes(tmp_path: Path) -> None:
    mapping = "".join(f"{n} {64 + n} {96 + n}\n" for n in range(1, 27))
    found = load_dataset(IdxConfig(path=str(idx_set(tmp_path, mapping, [26, 1, 2], "emnist-letters"))))
    assert "".join(found.class_names) == "abcdefghijklmnopqrstuvwxyz" and labels_of(found) == [25, 0, 1]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("", "empty; expected a label"),
        ("0 48\n1\n", "row 2: expected a label and the code"),
        ("0 48\none 49\n", "row 2: expected a label"),
        ("0 48\n1 49 50 51\n", "row 2: expected a label"),
        ("0 48\n1 7\n", "row 2: expected a label"),
        ("0 48\n0 49\n", "label 0 is listed twice"),
        ("0 48\n1 49\n", "label 2 is not in the mapping of 2"),
        ("0 48\n5 49\n", "label 2 is not in the mapping of 2"),
    ],
)
def test_a_mapping_that_does_not_fit_is_reported(tmp_path: Path, mapping: str, message: str) -> None:
    idx_set(tmp_path, mapping, [0, 2])
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(IdxConfig(path=str(tmp_path)))
    assert str(caught.value).startswith(str(tmp_path)) and "emnist-balanced-" in str(caught.value)


def test_a_mapping_that_is_no_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x-mapping.txt"
    path.write_bytes(b"\xff\xfe0 48")
    with pytest.raises(UsageError, match="not a text of numbers"):
        read_mapping(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_both_parts_of_a_matlab_file_upright_with_names(tmp_path: Path, compressed: bool) -> None:
    path, content = tmp_path / "emnist-letters.mat", emnist_struct()
    content["dataset"]["test"] = {**content["dataset"]["test"], "images": np.full((5, 784), 7, dtype=np.uint8)}
    content["dataset"]["test"]["labels"] = np.array([[26.0], [1], [1], [2], [3]])
    content["dataset"]["test"]["images"][0, 3 * 28 + 1] = 200  # column 3, row 1
    scipy.io.savemat(path, content, do_compression=compressed)
    config = source_config_for(str(path))
    assert config.name == "emnist"
    found = load_dataset(config)
    stored = content["dataset"]["train"]["images"].reshape(-1, 28, 28)
    assert np.array_equal(found.items(np.arange(COUNT))[:, 0], stored.swapaxes(1, 2))
    assert labels_of(found) == [number % 26 for number in range(COUNT)]
    assert "".join(found.class_names) == "abcdefghijklmnopqrstuvwxyz"
    test = load_dataset(EmnistConfig(path=str(path), split="test"))
    assert len(test) == 5 and labels_of(test) == [25, 0, 0, 1, 2]
    assert test.items(np.array([0]))[0, 0, 1, 3] == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((COUNT, 783), dtype=np.uint8)}, r"dataset\.train\.images: uint8 of 12x783"),
        ({"images": np.zeros((COUNT, 784))}, "float64 of 12x784; expected unsigned bytes"),
        ({"images": np.zeros((0, 784), dtype=np.uint8)}, "images"),
        ({"labels": np.ones((3, 1))}, "3 labels for 12 images"),
        ({"labels": np.full((COUNT, 1), 27.0)}, "label 27 is not in the mapping of 26"),
        ({"labels": ["a"] * COUNT}, r"has no field 'labels'"),
    ],
)
def test_matlab_files_of_another_content_are_reported(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "emnist-letters.mat"
    scipy.io.savemat(path, emnist_struct(**changes))
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(EmnistConfig(path=str(path)))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": 1}, "has no field 'dataset'"),
        ({"dataset": 1}, "has no field 'train'"),
        ({"dataset": {"train": {"x": 1}, "mapping": np.eye(2)}}, "has no field 'images'"),
    ],
)
def test_matlab_files_without_the_fields_are_reported(tmp_path: Path, content: dict[str, object], message: str) -> None:
    path = tmp_path / "some.mat"
    scipy.io.savemat(path, content)
    with pytest.raises(UsageError, match=message):
        load_dataset(EmnistConfig(path=str(path)))


def spoilt(whole: bytes, how: str) -> bytes:
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    cases = {
        "empty": b"",
        "cut header": whole[:100],
        "cut": whole[: len(whole) - 30],
        "cut tag": whole[:132],
        "changed": bytes(changed),
        "version 7.3": b"MATLAB 7.3 MAT-file" + whole[19:],
        "other": b"\x89PNG" + whole[4:],
    }
    return cases[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "cut short"),
        ("cut header", "cut short|not a MATLAB"),
        ("cut", "cut short"),
        ("cut tag", "cut short"),
        ("changed", "damaged"),
        ("version 7.3", r"not a MATLAB 5\.0 file"),
        ("other", r"not a MATLAB 5\.0 file"),
    ],
)
def test_damaged_matlab_files_are_reported(tmp_path: Path, how: str, message: str) -> None:
    path = emnist_mat(tmp_path)
    path.write_bytes(spoilt(path.read_bytes(), how))
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(source_config_for(str(path)))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such file"):
        load_dataset(EmnistConfig(path=str(tmp_path / "nothing.mat")))


def test_a_matlab_bomb_is_rejected_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = emnist_mat(tmp_path)
    packed = zlib.compress(bytes(3_000_000))
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<2I", 15, len(packed)) + packed)
    monkeypatch.setattr(matlab, "MAX_BYTES", 2_000_000)
    with pytest.raises(UsageError, match="unpacks to more than the 2000000"):
        load_dataset(EmnistConfig(path=str(path)))


@pytest.mark.parametrize("compressed", [True, False])
def test_structs_and_matrices_are_those_that_scipy_writes(tmp_path: Path, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    kinds = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "i8", "u8"]
    arrays = {f"of_{kind}": rng.integers(0, 100, (2, 3, 4)).astype(kind) for kind in kinds}
    written = {"inner": {"one": np.array([[7.0]]), **arrays}, "text": "abc", "none": np.zeros((0, 3))}
    scipy.io.savemat(tmp_path / "x.mat", {"outer": written, "alone": arrays["of_u2"]}, do_compression=compressed)
    found = matlab.read_variables(tmp_path / "x.mat")
    assert np.array_equal(found["alone"], arrays["of_u2"])
    inner = found["outer"]["inner"]
    assert all(
        np.array_equal(inner[name], array) and inner[name].dtype == array.dtype for name, array in arrays.items()
    )
    assert inner["one"].tolist() == [[7]] and found["outer"]["text"] is None and found["outer"]["none"].shape == (0, 3)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">2I", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack(">2I", 12, 0)) + element(5, struct.pack(">2i", 1, 2)) + element(1, b"x")
    whole = element(14, parts + element(5, struct.pack(">2i", -5, 70_000)))
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI" + whole)
    assert matlab.read_variables(tmp_path / "x.mat")["x"].tolist() == [[-5, 70_000]]


@pytest.mark.parametrize("compressed", [True, False])
def test_changed_bytes_give_an_error_of_ours_or_a_set(tmp_path: Path, compressed: bool) -> None:
    path, rng = tmp_path / "x.mat", np.random.default_rng(0)
    scipy.io.savemat(path, emnist_struct(), do_compression=compressed)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(100, 700, 3):  # where the sizes and names are; scipy's reader crashes on some
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            load_dataset(EmnistConfig(path=str(path)))
        except UsageError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
