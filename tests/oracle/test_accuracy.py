"""Classification accuracy: real digits teach, shuffled labels do not, and the same arguments give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.accuracy import Accuracy, train_and_test

Split = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Split:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


@pytest.fixture(scope="module")
def learned(digits: Split) -> Accuracy:
    return train_and_test(*digits, num_classes=10)


def test_real_digits_teach_digits(learned: Accuracy) -> None:
    assert learned.value > 0.93
    assert (learned.num_train, learned.num_test, learned.num_classes) == (1437, 360, 10)
    assert learned.standard_error == pytest.approx((learned.value * (1 - learned.value) / 360) ** 0.5)
    assert len(learned.by_class) == 10 and learned.to_dict()["by_class"] == list(learned.by_class)


def test_shares_by_class_make_the_whole(digits: Split, learned: Accuracy) -> None:
    weight = torch.bincount(digits[3], minlength=10).double() / len(digits[3])
    assert float((weight * torch.tensor(learned.by_class).double()).sum()) == pytest.approx(learned.value)


def test_shuffled_labels_teach_nothing(digits: Split) -> None:
    train, labels, test, truth = digits
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    found = train_and_test(train, shuffled, test, truth, 10)
    assert abs(found.value - 0.1) < 5 * (0.09 / len(truth)) ** 0.5


def test_same_arguments_same_bits_and_the_global_state_is_left_alone(digits: Split) -> None:
    train, labels, test, truth = digits
    few = (train[:300], labels[:300], test, truth, 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_and_test(*few, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert train_and_test(*few, epochs=2) == first
    assert train_and_test(*few, epochs=2, seed=5).by_class != first.by_class


def test_a_class_that_was_never_shown_is_never_right(digits: Split) -> None:
    """What the score is for: a generator that drops a class loses that class."""
    train, labels, test, truth = digits
    kept = labels != 3
    found = train_and_test(train[kept], labels[kept], test, truth, 10)
    assert found.by_class[3] == 0 and found.value < 0.92


@pytest.mark.parametrize(("channels", "height", "width"), [pytest.param(3, 64, 64, marks=pytest.mark.slow), (1, 8, 20)])
def test_sizes_and_channels(channels: int, height: int, width: int) -> None:
    """Dark against light is learned at any size; the last batch may be short, a class may be missing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(70) % 2
    images = (
        torch.randint(0, 100, (70, channels, height, width), generator=generator) + 150 * labels[:, None, None, None]
    )
    seen: list[tuple[int, int]] = []
    found = train_and_test(
        images.byte(), labels, images[:20].byte(), labels[:20], 3, epochs=8, on_progress=lambda *done: seen.append(done)
    )
    assert found.value == 1 and found.by_class == (1.0, 1.0, None)
    assert seen == [(epoch, 8) for epoch in range(1, 9)]


def images(num: int = 4, size: int = 8) -> Tensor:
    return torch.zeros(num, 1, size, size, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": images(4, 4), "test_images": images(4, 4)}, "training images are 4x4"),
        ({"test_images": images(4, 9)}, "must have one shape"),
        ({"train_images": torch.full((4, 1, 8, 8), float("nan"))}, "4 of 4 training images hold NaN"),
        ({"train_labels": torch.zeros(3, dtype=torch.int64)}, "training labels must be 4 whole numbers"),
        ({"test_labels": torch.zeros(4)}, "test labels must be 4 whole numbers"),
        ({"test_labels": torch.tensor([0, 1, 2, 0])}, r"must lie in 0..1, got 0..2"),
        ({"train_labels": torch.tensor([0, -1, 1, 0])}, r"must lie in 0..1, got -1..1"),
        ({"train_images": images(0), "train_labels": torch.zeros(0, dtype=torch.int64)}, "2 training images"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_bad_input_is_rejected(change: dict[str, object], message: str) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    good = {
        "train_images": images(),
        "train_labels": labels,
        "test_images": images(),
        "test_labels": labels,
        "num_classes": 2,
    }
    with pytest.raises(UsageError, match=message):
        train_and_test(**{**good, **change})
