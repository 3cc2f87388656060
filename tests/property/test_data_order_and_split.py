"""The split by content and the order of the loader, as properties that hold for any set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undiffuse.data import Loader, split_by_content
from undiffuse.data.loader import epoch_order
from undiffuse.data.source import ArrayDataset
from undiffuse.errors import UsageError

values = st.lists(st.integers(0, 255), min_size=1, max_size=40)
seeds = st.integers(0, 2**64 - 1)


def set_of(levels: list[int]) -> ArrayDataset:
    """One 1x1 picture a level; equal levels are duplicates."""
    return ArrayDataset("levels", np.array(levels, dtype=np.uint8).reshape(-1, 1, 1, 1))


def levels_of(dataset: object) -> list[int]:
    return dataset.items(np.arange(len(dataset))).reshape(-1).tolist()  # type: ignore[attr-defined]


@given(levels=values, fraction=st.floats(0, 0.999))
def test_the_split_is_complete_and_duplicates_never_straddle(levels: list[int], fraction: float) -> None:
    train, validation = split_by_content(set_of(levels), fraction)
    assert sorted(levels_of(train) + levels_of(validation)) == sorted(levels)
    assert not set(levels_of(train)) & set(levels_of(validation))
    assert len(train) > 0
    assert fraction > 0 or len(validation) == 0


@given(levels=values, more=values, fraction=st.floats(0.01, 0.9))
def test_added_pictures_move_no_other_across(levels: list[int], more: list[int], fraction: float) -> None:
    before, held_before = split_by_content(set_of(levels), fraction)
    after, held_after = split_by_content(set_of(more + levels), fraction)
    assert set(levels_of(held_before)) <= set(levels_of(held_after))
    stayed = set(levels_of(before)) - set(levels_of(after))
    # Only in a set that would have been held out whole does the training part borrow an item from the other.
    assert not stayed or set(levels_of(before)) == {levels_of(before)[0]}


@given(levels=values, order=st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_order(levels: list[int], order: object) -> None:
    shuffled = list(levels)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for one, other in zip(split_by_content(set_of(levels), 0.4), split_by_content(set_of(shuffled), 0.4), strict=True):
        assert sorted(levels_of(one)) == sorted(levels_of(other))


def test_the_share_held_out_is_as_asked_for_on_average() -> None:
    points = ArrayDataset("points", np.arange(40_000, dtype=np.float32).reshape(-1, 2))
    for fraction in (0.01, 0.1, 0.5):
        _, validation = split_by_content(points, fraction)
        assert abs(len(validation) - 20_000 * fraction) < 5 * (20_000 * fraction * (1 - fraction)) ** 0.5


def test_an_empty_set_splits_into_two_empty_sets() -> None:
    train, validation = split_by_content(set_of([1]).subset([]), 0.1)
    assert len(train) == len(validation) == 0
    with pytest.raises(UsageError, match="validation_fraction"):
        split_by_content(set_of([1]), 1.0)


@given(size=st.integers(1, 50), seed=seeds, epoch=st.integers(0, 1000))
def test_each_item_comes_exactly_once_an_epoch(size: int, seed: int, epoch: int) -> None:
    loader = Loader(set_of(list(range(size))), seed)
    assert sorted(loader.batch(epoch * size, size).indices.tolist()) == list(range(size))


@settings(max_examples=60)
@given(size=st.integers(1, 20), seed=seeds, start=st.integers(0, 200), cuts=st.lists(st.integers(0, 30), max_size=6))
def test_the_stream_is_the_same_however_it_is_cut(size: int, seed: int, start: int, cuts: list[int]) -> None:
    dataset = set_of(list(range(size)))
    whole = Loader(dataset, seed).batch(start, sum(cuts)).items
    loader, parts, position = Loader(dataset, seed), [], start
    for count in cuts:
        parts.append(loader.batch(position, count).items)
        position += count
    assert torch.equal(whole, torch.cat(parts) if parts else whole[:0])
    backwards = [loader.batch(position, 1).items for position in reversed(range(start, start + sum(cuts)))]
    assert not backwards or torch.equal(whole.flip(0), torch.cat(backwards))


def test_orders_differ_between_epochs_and_seeds_and_never_change_between_versions() -> None:
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 1))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 1, 0))
    assert epoch_order(8, seed=7, epoch=3).tolist() == GOLDEN_ORDER


def test_senseless_requests_of_the_loader_are_refused() -> None:
    with pytest.raises(UsageError, match="empty data set"):
        Loader(set_of([1]).subset([]), 0)
    with pytest.raises(UsageError, match="seed"):
        Loader(set_of([1]), -1)
    with pytest.raises(UsageError, match="start at 0"):
        Loader(set_of([1]), 0).batch(-1, 2)


GOLDEN_ORDER = [2, 5, 7, 3, 0, 6, 4, 1]
