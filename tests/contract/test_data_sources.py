"""Every row of the source registry behind one contract, and the IDX reader on sound and damaged files."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import PUBLISHED

from undiffuse.config import validate
from undiffuse.data import (
    SOURCE_CONFIGS,
    Dataset,
    DigitsConfig,
    IdxConfig,
    SourceConfig,
    SwissrollConfig,
    describe,
    load_dataset,
    preview_grid,
    source_config_for,
    split_by_content,
)
from undiffuse.data.readers.idx import read_idx
from undiffuse.data.sources.idx import EMNIST_CLASSES
from undiffuse.errors import UsageError


def write_idx(path: Path, array: np.ndarray, sizes: tuple[int, ...] | None = None, kind: int = 8) -> Path:
    """An IDX file, gzipped where the name says so; ``sizes`` may lie."""
    sizes = array.shape if sizes is None else sizes
    content = (
        bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def some_images(count: int = 12, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width), dtype=np.uint8)


def mnist_like(folder: Path, ending: str = ".gz", prefix: str = "", count: int = 12) -> np.ndarray:
    images = some_images(count)
    write_idx(folder / f"{prefix}train-images-idx3-ubyte{ending}", images)
    write_idx(folder / f"{prefix}train-labels-idx1-ubyte{ending}", np.arange(count) % 3)
    return images


def archive_of_images(path: Path) -> None:
    """A zip archive or tar shard of small images."""
    with zipfile.ZipFile(path, "w") if path.suffix == ".zip" else tarfile.open(path, "w") as archive:
        for index, image in enumerate(some_images()):
            Image.fromarray(image).save(content := io.BytesIO(), "png")
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(f"{index:02}.png", content.getvalue())
            else:
                member = tarfile.TarInfo(f"{index:02}.png")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))


def example(name: str, folder: Path) -> SourceConfig:
    """A small configuration of each source; a new source adds what it needs here only if it needs a file."""
    if name in ("idx", "stacked_mnist"):
        mnist_like(folder)
    if name == "folder":
        for index, image in enumerate(some_images()):
            Image.fromarray(image).save(folder / f"{index:02}.png")
    if name in ("zip", "tar"):
        folder /= f"set.{name}"
        archive_of_images(folder)
    if name == "join":
        for style in ("oil", "photo"):
            archive_of_images(folder / f"{style}.zip")
    if name in PUBLISHED:
        folder = PUBLISHED[name](folder)
    needs_path = "path" in SOURCE_CONFIGS[name].model_fields
    few = {"num_scenes": 400} if name == "scenes" else {}
    return validate(SOURCE_CONFIGS[name], {"name": name, **few, **({"path": str(folder)} if needs_path else {})})


@pytest.fixture(params=sorted(SOURCE_CONFIGS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SourceConfig, Dataset]:
    config = example(request.param, tmp_path)
    return config, load_dataset(config)


def test_every_source_meets_the_contract(source: tuple[SourceConfig, Dataset]) -> None:
    config, dataset = source
    rows = np.array([len(dataset) - 1, 0, 0])
    batch = dataset.fetch(rows)
    images = len(dataset.shape) == 3
    assert dataset.name == config.name
    assert batch.items.shape == (3, *dataset.shape) and batch.indices.tolist() == rows.tolist()
    assert batch.items.dtype == (torch.uint8 if images else torch.float32)
    assert torch.equal(batch.items[1], batch.items[2])
    assert batch.x_0.dtype == torch.float32 and (not images or batch.x_0.abs().max() <= 1)
    assert dataset.hashes().shape == (len(dataset), 16) and dataset.hashes().dtype == np.uint8
    assert dataset.num_classes == len(dataset.class_names)
    if dataset.labels is None:
        assert batch.given.label is None and dataset.num_classes == 0
    else:
        label = batch.given.label
        assert label is not None and label.dtype == torch.int64
        assert dataset.labels.min() >= 0 and dataset.labels.max() < dataset.num_classes
    assert {"source", "licence", "options"} <= set(dataset.provenance)
    assert dataset.item_name(0) != dataset.item_name(1)


def test_every_source_is_deterministic_and_has_an_empty_batch(source: tuple[SourceConfig, Dataset]) -> None:
    config, dataset = source
    again = load_dataset(config)
    assert again.fingerprint == dataset.fingerprint and np.array_equal(again.hashes(), dataset.hashes())
    every = np.arange(len(dataset))
    assert torch.equal(again.fetch(every).items, dataset.fetch(every).items)
    assert dataset.fetch([]).items.shape == (0, *dataset.shape)
    assert len(dataset.subset([])) == 0
    with pytest.raises(UsageError, match="do not fit"):
        dataset.fetch([len(dataset)])
    with pytest.raises(UsageError, match="do not fit"):
        dataset.subset([-1])


def test_a_subset_is_a_data_set(source: tuple[SourceConfig, Dataset]) -> None:
    _, dataset = source
    part = dataset.subset([2, 1, 3]).subset([2, 0])
    assert len(part) == 2 and part.shape == dataset.shape
    assert torch.equal(part.fetch([0, 1]).items, dataset.fetch([3, 2]).items)
    assert part.fetch([1]).indices.tolist() == [1]
    assert np.array_equal(part.hashes(), dataset.hashes()[[3, 2]])
    assert part.item_name(0) == dataset.item_name(3)
    assert part.fingerprint != dataset.fingerprint
    if dataset.labels is not None:
        assert part.labels is not None and part.labels.tolist() == dataset.labels[[3, 2]].tolist()


def test_every_source_can_be_described_and_looked_at(source: tuple[SourceConfig, Dataset]) -> None:
    config, dataset = source
    about = describe(dataset, config)
    assert about["num_looked_at"] <= about["num_items"]
    assert about["num_items"] == len(dataset) == sum(about["split"].values())
    assert about["shape"] == list(dataset.shape) and about["fingerprint"] == dataset.fingerprint
    assert not about["classes"] or sum(about["classes"].values()) == len(dataset)
    low, high = about["value_range"]
    assert low < high and (about["kind"] == "points" or (low >= 0 and high <= 255))
    grid = preview_grid(dataset, num=9)
    assert isinstance(grid, Image.Image) and min(grid.size) >= 15
    assert len(set(grid.convert("L").tobytes())) > 1


def test_splits_are_disjoint_and_complete(source: tuple[SourceConfig, Dataset]) -> None:
    _, dataset = source
    train, validation = split_by_content(dataset, 0.3)
    assert len(train) + len(validation) == len(dataset)
    assert not set(map(bytes, train.hashes())) & set(map(bytes, validation.hashes()))
    assert abs(len(validation) / len(dataset) - 0.3) < (0.05 if len(dataset) > 1000 else 0.35)


def test_listing_the_sources_costs_no_heavy_import() -> None:
    code = (
        "import sys, undiffuse.data, undiffuse.data.config; from undiffuse.data import source_config_for; "
        "source_config_for('digits'); print(sorted({'torch', 'sklearn', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_digits_are_the_1797_real_scans() -> None:
    digits = load_dataset(DigitsConfig())
    assert len(digits) == 1797 and digits.shape == (1, 8, 8) and digits.num_classes == 10
    levels = np.unique(digits.items(np.arange(1797)))
    assert levels.min() == 0 and levels.max() == 255 and len(levels) == 17
    assert digits.fingerprint == "4ee6c3564d99d88e866a1741cbe2a905"  # of the published set


def test_digits_at_another_size() -> None:
    digits = load_dataset(DigitsConfig(size=16, channels=3, upscale=True))
    assert digits.shape == (3, 16, 16)
    same_at_every_size = load_dataset(DigitsConfig()).hashes()  # and so is the split
    assert np.array_equal(digits.hashes(), same_at_every_size)
    with pytest.raises(UsageError, match=r"8x8 .*16x16.*size=8.*upscale=true"):
        load_dataset(DigitsConfig(size=16))
    padded = load_dataset(DigitsConfig(size=(8, 12), fit="letterbox")).items(np.array([0]))
    assert padded.shape == (1, 1, 8, 12) and padded[..., :2].max() == 0 and padded[..., 10:].max() == 0
    assert np.array_equal(padded[..., 2:10], load_dataset(DigitsConfig()).items(np.array([0])))


def test_a_size_beyond_memory_is_rejected() -> None:
    with pytest.raises(UsageError, match="1797 images of 8192x8192"):
        load_dataset(DigitsConfig(size=8192, upscale=True))


def test_swissroll_is_centred_scaled_and_seeded() -> None:
    points = load_dataset(SwissrollConfig(num_points=50_000, noise=0)).items(np.arange(50_000))
    assert np.abs(points.mean(axis=0)).max() < 0.02
    assert abs(points.var(axis=0).mean() - 1) < 0.02
    other = load_dataset(SwissrollConfig(num_points=50_000, noise=0, seed=1)).items(np.arange(50_000))
    assert not np.array_equal(points, other)
    with pytest.raises(UsageError, match="has no key 'size'"):
        validate(SwissrollConfig, {"name": "swissroll", "size": 3})


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_reads_plain_and_gzipped(tmp_path: Path, ending: str) -> None:
    images = mnist_like(tmp_path, ending)
    dataset = load_dataset(IdxConfig(path=str(tmp_path)))
    assert np.array_equal(dataset.items(np.arange(12))[:, 0], images)
    assert dataset.labels is not None and dataset.labels.tolist() == [i % 3 for i in range(12)]
    assert dataset.class_names == ("0", "1", "2")


def test_idx_knows_gzip_by_content_not_by_name(tmp_path: Path) -> None:
    mnist_like(tmp_path, ".gz")
    zipped, bare = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-images-idx3-ubyte"
    zipped.rename(bare)
    assert len(load_dataset(IdxConfig(path=str(bare)))) == 12


def test_idx_without_labels_and_other_spelling(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images.idx3-ubyte", some_images())
    dataset = load_dataset(IdxConfig(path=str(tmp_path)))
    assert dataset.labels is None and dataset.num_classes == 0
    write_idx(tmp_path / "train-labels.idx1-ubyte", np.arange(12))
    assert load_dataset(IdxConfig(path=str(tmp_path))).num_classes == 12


def test_idx_splits_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    with pytest.raises(UsageError, match="no IDX images of the split 'test'"):
        load_dataset(IdxConfig(path=str(tmp_path), split="test"))
    train = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(UsageError, match="there is no 'test' file next to it"):
        load_dataset(IdxConfig(path=str(train), split="test"))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", some_images(4))
    assert len(load_dataset(IdxConfig(path=str(tmp_path), split="test"))) == 4
    assert len(load_dataset(IdxConfig(path=str(train), split="test"))) == 4
    assert len(load_dataset(IdxConfig(path=str(tmp_path / "t10k-images-idx3-ubyte")))) == 4
    assert len(load_dataset(IdxConfig(path=str(tmp_path)))) == 12


def test_emnist_is_put_upright_and_named(tmp_path: Path) -> None:
    images = mnist_like(tmp_path, prefix="emnist-balanced-")
    dataset = load_dataset(IdxConfig(path=str(tmp_path)))
    assert np.array_equal(dataset.items(np.arange(12))[:, 0], images.swapaxes(1, 2))
    assert dataset.shape == (1, 5, 6) and dataset.class_names == tuple(EMNIST_CLASSES["balanced"])
    lying = load_dataset(IdxConfig(path=str(tmp_path), transpose=False))
    assert np.array_equal(lying.items(np.arange(12))[:, 0], images)
    assert [len(names) for names in EMNIST_CLASSES.values()] == [62, 47, 47, 26, 10, 10]


def test_emnist_letters_count_from_one_in_the_file(tmp_path: Path) -> None:
    write_idx(tmp_path / "emnist-letters-test-images-idx3-ubyte.gz", some_images(26))
    write_idx(tmp_path / "emnist-letters-test-labels-idx1-ubyte.gz", np.arange(1, 27))
    dataset = load_dataset(IdxConfig(path=str(tmp_path), split="test"))
    assert "".join(dataset.class_names) == "abcdefghijklmnopqrstuvwxyz"
    assert dataset.labels is not None and dataset.labels.tolist() == list(range(26))


def test_several_idx_sets_in_a_folder_are_not_guessed_at(tmp_path: Path) -> None:
    mnist_like(tmp_path, prefix="emnist-digits-")
    mnist_like(tmp_path, prefix="emnist-letters-")
    with pytest.raises(UsageError, match=r"several IDX sets.*emnist-digits.*emnist-letters"):
        load_dataset(IdxConfig(path=str(tmp_path)))
    assert len(load_dataset(IdxConfig(path=str(tmp_path / "emnist-digits-train-images-idx3-ubyte.gz")))) == 12


def spoil(path: Path, how: str) -> None:
    """Damage the images (or labels) of a sound pair of IDX files."""
    content, labels = gzip.decompress(path.read_bytes()), path.with_name("train-labels-idx1-ubyte.gz")
    spoilt = {
        "empty": b"",
        "short magic": content[:3],
        "cut gzip": path.read_bytes()[:-40],
        "cut": gzip.compress(content[:-1]),
        "cut header": gzip.compress(content[:10]),
        "longer": gzip.compress(content + b"x"),
        "wrong magic": gzip.compress(b"\x89PNG" + content[4:]),
        "floats": gzip.compress(content[:2] + b"\x0d" + content[3:]),
        "huge claim": gzip.compress(content[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)),
        "no images": gzip.compress(content[:4] + struct.pack(">3I", 0, 6, 5)),
        "one axis": labels.read_bytes(),
    }
    if how == "labels fewer":
        write_idx(labels, np.arange(11))
    elif how == "labels are images":
        labels.write_bytes(path.read_bytes())
    elif how == "flipped byte":
        raw = bytearray(path.read_bytes())
        raw[-6] ^= 0xFF  # in the checksum of gzip
        path.write_bytes(bytes(raw))
    else:
        path.write_bytes(spoilt[how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "0 bytes long"),
        ("short magic", "3 bytes long"),
        ("cut gzip", "damaged or cut short"),
        ("flipped byte", "damaged or cut short"),
        ("cut", "only 359 bytes follow"),
        ("cut header", "cut short within its header"),
        ("longer", "more bytes follow"),
        ("wrong magic", "starts with 89504e47"),
        ("floats", "type 0x0d; expected unsigned bytes"),
        ("huge claim", "cut short: its header states"),
        ("no images", "empty: its shape is"),
        ("one axis", "looks like the label file"),
        ("labels fewer", "11 labels for 12 images"),
        ("labels are images", "expected 1 for a label file"),
    ],
)
def test_damaged_idx_files_are_named_and_explained(tmp_path: Path, how: str, message: str) -> None:
    mnist_like(tmp_path)
    spoil(tmp_path / "train-images-idx3-ubyte.gz", how)
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(IdxConfig(path=str(tmp_path)))
    assert "ubyte" in str(caught.value) and "\n" not in str(caught.value)


def test_an_idx_bomb_is_rejected_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.readers.idx.MAX_BYTES", 10_000)
    path = write_idx(tmp_path / "x-images-idx3-ubyte.gz", np.zeros((200, 10, 10)))
    with pytest.raises(UsageError, match="more than the 10000"):
        read_idx(path)


def test_a_text_on_the_command_line_means_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "numbers").mkdir()
    mnist_like(tmp_path / "numbers")
    assert source_config_for("digits").name == "digits"
    assert source_config_for("./digits").name == "folder"
    assert source_config_for("swissroll").name == "swissroll"
    assert source_config_for("numbers").name == "idx"
    assert source_config_for("folder:numbers").name == "folder"
    assert source_config_for("numbers/train-images-idx3-ubyte.gz") == IdxConfig(
        path="numbers/train-images-idx3-ubyte.gz"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("", "no data source ''"),
        ("nowhere/at/all", "existing folder"),
        ("idx", "needs a path; write idx:PATH"),
        ("digits:here", "takes no path"),
        ("notes.txt", "not an IDX"),
        ("images.7z", "unpack it"),
    ],
)
def test_an_unknown_source_is_rejected_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing of interest")
    (tmp_path / "images.7z").write_bytes(b"7z")
    with pytest.raises(UsageError, match=message):
        source_config_for(spec)


@pytest.mark.parametrize(
    "options",
    [
        *({"size": 0}, {"size": -4}, {"size": "big"}, {"size": [8, 8, 8]}, {"channels": 2}, {"fit": "squash"}),
        *({"background": 256}, {"background": [1, 2]}, {"validation_fraction": 1}, {"validation_fraction": "nan"}),
        {"sise": 8},
    ],
)
def test_senseless_options_are_rejected(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        validate(DigitsConfig, {"name": "digits", **options})


def test_sizes_and_configs_survive_json() -> None:
    for size, target in [(8, (8, 8)), ("8", (8, 8)), ("48x64", (48, 64)), ([48, 64], (48, 64)), (None, None)]:
        config = validate(DigitsConfig, {"name": "digits", "size": size, "background": [1, 2, 3]})
        assert config.target == target and config.background == (1, 2, 3)
        assert validate(DigitsConfig, config.model_dump(mode="json")) == config


def test_real_mnist_files(shared_data: Path) -> None:
    dataset = load_dataset(source_config_for(str(shared_data / "mnist")))
    assert len(dataset) == 60_000 and dataset.shape == (1, 28, 28)
    assert dataset.labels is not None and dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    _, validation = split_by_content(dataset, 0.1)
    assert abs(len(validation) - 6000) < 250
    test = load_dataset(IdxConfig(path=str(shared_data / "fashion-mnist"), split="test"))
    assert len(test) == 10_000 and describe(test, DigitsConfig())["classes"] == {str(i): 1000 for i in range(10)}
