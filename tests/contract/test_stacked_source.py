"""Stacked MNIST: a function of seed and position, labels that are three digits, a split that shares no digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_data_sources import mnist_like, write_idx

from undiffuse.data import Dataset, StackedMnistConfig, load_dataset, source_config_for, split_by_content
from undiffuse.data.sources.stacked import draw_triples
from undiffuse.errors import UsageError


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, np.ndarray]:
    return tmp_path, mnist_like(tmp_path, count=40)


def stacks(folder: Path, **options: object) -> Dataset:
    return load_dataset(StackedMnistConfig(path=str(folder), **{"num_pictures": 60, **options}))  # type: ignore[arg-type]


def which(images: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(N, 3) positions of the channels among the digits, all of which differ."""
    same = (items[:, :, None] == images[None, None]).all((-1, -2))
    assert (same.sum(-1) == 1).all()
    return same.argmax(-1)


def test_channels_are_digits_and_the_class_is_all_three(digits: tuple[Path, np.ndarray]) -> None:
    folder, images = digits
    dataset = stacks(folder)
    assert dataset.shape == (3, 6, 5) and len(dataset) == 60 and dataset.num_classes == 27
    rows = which(images, dataset.fetch(range(60)).items.numpy())
    labels = rows % 3
    assert np.array_equal(dataset.labels, labels @ [9, 3, 1])
    assert [dataset.class_names[code] for code in dataset.labels] == ["".join(map(str, row)) for row in labels]
    assert len(np.unique(rows)) > 35 and (rows[:, 0] != rows[:, 1]).any()


def test_a_stack_is_a_function_of_seed_and_position(digits: tuple[Path, np.ndarray]) -> None:
    folder, _ = digits
    first, more = stacks(folder), stacks(folder, num_pictures=90)  # data
    assert np.array_equal(first.fetch(range(60)).items, more.fetch(range(60)).items)
    assert np.array_equal(first.fetch([7]).items[0], first.fetch([3, 7]).items[1])
    assert first.fingerprint == stacks(folder).fingerprint != stacks(folder, seed=1).fingerprint
    assert not np.array_equal(first.fetch(range(60)).items, stacks(folder, seed=1).fetch(range(60)).items)


def test_no_digit_is_on_both_sides_of_the_split(digits: tuple[Path, np.ndarray]) -> None:
    folder, images = digits
    training, held_out = split_by_content(stacks(folder, validation_fraction=0.3, num_pictures=200), 0.3)  # data
    assert len(training) > 80 and len(held_out) > 20
    used = [set(which(images, part.fetch(range(len(part))).items.numpy()).flatten()) for part in (training, held_out)]
    assert not used[0] & used[1]


def test_digits_of_a_side_come_equally_often() -> None:
    held_out = np.arange(10) < 3
    triples = draw_triples(held_out, 30_000, seed=0)
    shares = np.bincount(triples[held_out[triples[:, 0]], 1], minlength=10)[:3] / held_out[triples[:, 0]].sum()
    assert np.abs(shares - 1 / 3).max() < 0.02
    assert np.abs(np.bincount(triples[:, 0], minlength=10) / 30_000 - 0.1).max() < 0.01
    assert (held_out[triples].all(1) | ~held_out[triples].any(1)).all()
    assert not draw_triples(np.zeros(4, bool), 50, 0)[:, 1:].max() > 3


def test_size_and_names(digits: tuple[Path, np.ndarray]) -> None:
    folder, _ = digits
    assert stacks(folder, size=4).shape == (3, 4, 4)
    assert isinstance(source_config_for(f"stacked_mnist:{folder}"), StackedMnistConfig)
    assert len(stacks(folder, classes=("012",))) > 0


def test_what_cannot_be_stacked_is_rejected(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    with pytest.raises(UsageError, match="channels=1"):
        stacks(tmp_path, channels=1)
    many = tmp_path / "many"
    many.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    write_idx(many / "train-images-idx3-ubyte", images)
    assert stacks(many).labels is None and stacks(many).num_classes == 0
    write_idx(many / "train-labels-idx1-ubyte", np.arange(30))
    with pytest.raises(UsageError, match="30 classes"):
        stacks(many)
