"""NumPy's files of images: axes, levels, labels, and what is wrong with them."""

from __future__ import annotations

import copy
import io
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest

from undiffuse.config import validate
from undiffuse.data import ArraysConfig, Dataset, load_dataset, source_config_for
from undiffuse.data.readers import npy
from undiffuse.errors import UsageError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=False)
    return path


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(validate(ArraysConfig, {"name": "arrays", "path": str(path), **options}))


def images(found: Dataset) -> np.ndarray:
    return found.items(np.arange(len(found)))


@pytest.mark.parametrize(
    ("shape", "axes", "to_planes"),
    [
        ((9, 6, 5), "NHW", lambda array: array[:, None]),
        ((9, 6, 5, 3), "NHWC", lambda array: array.transpose(0, 3, 1, 2)),
        ((9, 6, 5, 1), "NHWC", lambda array: array.transpose(0, 3, 1, 2)),
        ((9, 3, 6, 5), "NCHW", lambda array: array),
        ((9, 1, 6, 5), "NCHW", lambda array: array),
    ],
)
def test_axes_follow_from_the_channels(tmp_path: Path, shape: tuple[int, ...], axes: str, to_planes: object) -> None:
    array = noise(*shape)
    np.savez(tmp_path / "set.npz", array)
    for path in (saved(tmp_path / "set.npy", array), tmp_path / "set.npz"):
        config = source_config_for(str(path))
        assert config.name == "arrays"
        found = load_dataset(config)
        assert np.array_equal(images(found), to_planes(array))  # type: ignore[operator]
        assert found.provenance["axes"].startswith(axes + " ")
        assert np.array_equal(images(load(path, axes=axes)), images(found))


def test_the_same_images_have_the_same_hashes_in_either_file(tmp_path: Path) -> None:
    array = noise(600, 4, 4, 3)
    np.savez_compressed(tmp_path / "set.npz", images=array)
    mapped, held = load(saved(tmp_path / "set.npy", array)), load(tmp_path / "set.npz")
    assert np.array_equal(mapped.hashes(), held.hashes()) and mapped.fingerprint == held.fingerprint
    small = load(tmp_path / "set.npy", size=2, channels=1)
    assert small.shape == (1, 2, 2) and np.array_equal(small.hashes(), held.hashes())
    assert np.array_equal(images(small), images(load(tmp_path / "set.npz", size=2, channels=1)))


def test_ambiguous_axes_are_requested_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "set.npy", noise(4, 3, 8, 3))
    with pytest.raises(UsageError, match=r"4x3x8x3: the channels may be first or last; set data\.axes="):
        load(path)
    assert load(path, axes="NHWC").shape == (3, 3, 8) and load(path, axes="NCHW").shape == (3, 8, 3)
    with pytest.raises(UsageError, match="does not fit axes=NCHW"):
        load(saved(path, noise(4, 8, 8, 3)), axes="NCHW")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (noise(9, 8), "9x8; expected images as NxHxW"),
        (noise(9, 8, 8, 4), "no axis of 1 or 3 channels"),
        (noise(0, 8, 8), "0x8x8; expected images"),
        (np.zeros((9, 8, 8)), r"numbers of type float64; expected unsigned bytes 0\.\.255; they go from 0 to 0: decl"),
        (
            noise(9, 8, 8) / 255,
            r"from 0 to 1: declare them with data.levels=0\.\.1, or save x \* 255, rounded",
        ),
        (noise(9, 8, 8) / 127.5 - 1, r"levels=-1\.\.1, or save \(x \+ 1\) \* 127\.5, rounded, as numpy.uint8"),
        (noise(9, 8, 8) * 1.0, r"from 0 to 255: save x, rounded, as numpy.uint8"),
        (noise(9, 8, 8) * np.uint16(257), r"uint16; .*: save x / 257, rounded, as numpy.uint8"),
        (noise(9, 8, 8) - 300.0, r"from -300 to -45: save levels that you choose"),
        (np.zeros((9, 8, 8), dtype=np.int64), "type int64; expected unsigned bytes.*numpy.uint8"),
        (np.zeros((9, 8, 8), dtype="U3"), "expected unsigned bytes"),
        (np.array(3, dtype=np.uint8), "one number; expected images"),
    ],
)
def test_arrays_that_are_no_images_are_reported(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "set.npz", images=array)
    for path in (saved(tmp_path / "set.npy", array), tmp_path / "set.npz"):
        with pytest.raises(UsageError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("levels", "low"), [("0..1", 0.0), ("-1..1", -1.0)])
def test_floats_are_taken_where_their_range_is_reported(tmp_path: Path, levels: str, low: float) -> None:
    whole = noise(300, 4, 4)
    floats = (whole / 255 * (1 - low) + low).astype(np.float32)
    np.savez(tmp_path / "set.npz", x=floats)
    for path in (saved(tmp_path / "set.npy", floats), tmp_path / "set.npz"):
        assert np.array_equal(images(load(path, levels=levels))[:, 0], whole)
        with pytest.raises(UsageError, match=f"declare them with data.levels={levels}"):
            load(path)
    floats[290, 0, 0] = np.nan
    np.savez(tmp_path / "set.npz", x=floats)
    with pytest.raises(UsageError, match=f"values nan..nan, outside levels={levels}"):
        load(tmp_path / "set.npz", levels=levels)
    with pytest.raises(UsageError, match=f"outside levels={levels}"):
        load(saved(tmp_path / "set.npy", floats + 1), levels=levels).hashes()
    with pytest.raises(UsageError, match="is for floating-point numbers"):
        load(saved(tmp_path / "set.npy", whole), levels=levels)


def test_labels_of_every_usual_name(tmp_path: Path) -> None:
    path, array, labels = tmp_path / "set.npz", noise(6, 4, 4), np.array([0, 2, 1, 2, 0, 1])
    for names in (("images", "labels"), ("x", "y"), ("arr_0", "arr_1"), ("x_train", "y_train"), ("data", "label")):
        np.savez(path, **dict(zip(names, (array, labels), strict=True)))  # type: ignore[arg-type]
        found = load(path)
        assert found.labels is not None and found.labels.tolist() == labels.tolist() and found.num_classes == 3
    np.savez(path, train_images=array, train_labels=labels[:, None], test_images=array[:2], test_labels=labels[:2])
    assert load(path).labels is not None and len(load(path)) == 6 and len(load(path, split="test")) == 2
    np.savez(path, one=array, two=labels)
    assert load(path).labels is None
    named = load(path, array="one", labels="two")
    assert named.labels is not None and named.labels.tolist() == labels.tolist()
    np.savez(path, images=array, labels=labels)
    assert load(path, labels="none").labels is None


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": noise(6, 4, 4), "labels": np.arange(5)}, {}, "5 labels for 6 images"),
        ({"images": noise(6, 4, 4), "labels": np.ones(6)}, {}, "float64 of 6; expected one whole number"),
        ({"images": noise(6, 4, 4), "labels": np.ones((6, 2), int)}, {}, "int64 of 6x2; expected one whole"),
        ({"images": noise(6, 4, 4), "labels": np.full(6, -1)}, {}, r"labels -1\.\.-1; expected class numbers"),
        ({"images": noise(6, 4, 4), "labels": np.full(6, 2**40)}, {}, "expected class numbers"),
        ({"one": noise(6, 4, 4), "two": noise(6, 4, 4)}, {}, "2 arrays that may be images.*array="),
        ({"one": noise(6, 4)}, {}, "0 arrays that may be images"),
        ({"images": noise(6, 4, 4)}, {"array": "image"}, "no array 'image' for array; did you mean 'images'"),
        ({"images": noise(6, 4, 4)}, {"labels": "classes"}, "no array 'classes' for labels"),
    ],
)
def test_archives_that_do_not_fit_are_reported(
    tmp_path: Path, arrays: dict[str, np.ndarray], options: dict[str, str], message: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path / "set.npz", **options)
    assert str(caught.value).startswith(str(tmp_path / "set.npz"))


def members(path: Path, **contents: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return path


def file_of(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    np.lib.format.write_array(content := io.BytesIO(), array, allow_pickle=allow_pickle)
    return content.getvalue()


def test_pickled_objects_are_rejected_and_not_looked_into(tmp_path: Path) -> None:
    content = file_of(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert any(code.name == "STOP" for code, *_ in pickletools.genops(content[128:]))
    (tmp_path / "set.npy").write_bytes(content)
    for path in (tmp_path / "set.npy", members(tmp_path / "set.npz", images=content)):
        with pytest.raises(UsageError, match="an array of Python objects, which are pickles and not supported"):
            load(path)


@pytest.mark.parametrize("how", ["empty", "cut magic", "cut header", "cut", "version", "no literal", "code"])
def test_damaged_arrays_are_reported(tmp_path: Path, how: str) -> None:
    whole = file_of(noise(9, 8, 8))
    content = {
        "empty": b"",
        "cut magic": whole[:5],
        "cut header": whole[:50],
        "cut": whole[:-1],
        "version": whole[:6] + b"\x09\x00" + whole[8:],
        "no literal": whole[:10] + b"?" * 118 + whole[128:],
        "code": whole[:10] + b"__import__('os').system('touch pwned')".ljust(117) + b"\n" + whole[128:],
    }[how]
    (tmp_path / "set.npy").write_bytes(content)
    for path in (tmp_path / "set.npy", members(tmp_path / "set.npz", images=content)):
        with pytest.raises(UsageError, match=r"damaged, cut short|cut short: ") as caught:
            load_dataset(source_config_for(str(path)))
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_damaged_archives_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=noise(9, 8, 8))
    whole = bytearray(path.read_bytes())
    for content in (whole[:-40], whole[:300], b"", b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged, cut short"):
            load_dataset(source_config_for(str(path)))
    whole[400] ^= 0xFF  # one level; the checksum tells
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="damaged, cut short"):
        load(path)
    with pytest.raises(UsageError, match="holds no arrays"):
        load(members(path))


def test_an_archive_that_unpacks_to_too_much_is_rejected_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "MAX_BYTES", 500)
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros((9, 8, 8), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"576 bytes are more than the 500 held in memory; save it as \.npy"):
        load(tmp_path / "set.npz")


def test_a_mapped_file_stays_on_the_disk_and_is_opened_again_elsewhere(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "set.npy", noise(9, 8, 8)))
    other = copy.copy(found)  # as for another process: its state without the map
    assert isinstance(found.__dict__["_stored"], np.memmap) and found.__getstate__()["_stored"] is None  # type: ignore[index]
    assert np.array_equal(images(other), images(found))
    items = images(found)
    items[:] = 0  # a fresh array, not the file
    assert images(found).any()


def test_options_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    path = saved(tmp_path / "set.npy", noise(9, 8, 8))
    with pytest.raises(UsageError, match="holds one array without a name"):
        load(path, labels="y")
    with pytest.raises(UsageError, match=r"8x8 .*smaller than the training size 16x16"):
        load(path, size=16)
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "nothing.npy")
