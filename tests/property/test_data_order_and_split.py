"""The split by content and the order of the loader, as properties that hold for any set."""

from __future__ import annotations

import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from undiffuse.data import Loader, split_by_content
from undiffuse.data.dataset import ArrayDataset
from undiffuse.data.order import NUM_ROUNDS, epoch_order, shuffled
from undiffuse.errors import UsageError

values = st.lists(st.integers(0, 255), min_size=1, max_size=40)
seeds = st.integers(0, 2**64 - 1)


def set_of(levels: list[int]) -> ArrayDataset:
    """One 1x1 image a level; equal levels are duplicates."""
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
def test_added_images_move_no_other_across(levels: list[int], more: list[int], fraction: float) -> None:
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


def test_the_share_held_out_is_as_requested_for_on_average() -> None:
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


def mixed(word: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ word >> shift) * factor % 2**64
    return word ^ word >> 31


def item_at(place: int, size: int, seed: int, epoch: int) -> int:
    """One place of the order, written down from its definition, in whole numbers of Python."""
    golden = 0x9E3779B97F4A7C15
    state = mixed((mixed((seed + golden) % 2**64) + mixed((epoch + golden) % 2**64)) % 2**64)
    a = math.isqrt(size - 1) + 1
    a += a % 2
    b = -(-size // a)
    while True:
        left, right = divmod(place, b)
        for number in range(NUM_ROUNDS):
            key = mixed((state + (number + 1) * golden) % 2**64)
            word = mixed(((left if number % 2 else right) + key) % 2**64) >> 32
            if number % 2:
                right = (right + (word * b >> 32)) % b
            else:
                left = (left + (word * a >> 32)) % a
        place = left * b + right
        if place < size:
            return place


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 2**40), seed=seeds, epoch=st.integers(0, 2**20), place=st.integers(0, 2**40))
def test_the_order_is_what_its_definition_reports(size: int, seed: int, epoch: int, place: int) -> None:
    places = [place % size, 0, size - 1]
    computed = shuffled(np.array(places) + epoch * size, size, seed)
    assert computed.tolist() == [item_at(one, size, seed, epoch) for one in places]


@pytest.mark.parametrize("apart", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_every_epoch_of_every_size_is_a_permutation(apart: int) -> None:
    for size in (*range(1, 300), *range(300, 2001, apart)):
        assert np.array_equal(np.sort(epoch_order(size, 3, size)), np.arange(size)), size
    for size in (65_536, 65_537, 300_007):
        assert np.bincount(epoch_order(size, 0, 5), minlength=size).tolist() == [1] * size
    some = shuffled(np.arange(20_000) + 7 * (2**40 + 1), 2**40 + 1, 1)
    assert len(np.unique(some)) == 20_000 and some.max() > 2**39 and some.min() >= 0


@pytest.mark.parametrize(
    ("size", "epochs"), [(2, 4_000), (3, 12_000), (4, 48_000), (5, 60_000), (6, 72_000), (7, 150_000)]
)
def test_all_permutations_are_equally_frequent(size: int, epochs: int) -> None:
    orders = shuffled(np.arange(size * epochs), size, 11).reshape(epochs, size)
    _, counts = np.unique(orders @ (size ** np.arange(size)), return_counts=True)
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_each_item_is_as_often_at_each_place_whatever_came_before_it() -> None:
    size, epochs = 24, 4_000
    orders = shuffled(np.arange(size * epochs), size, 5).reshape(epochs, size)
    places = np.stack([np.bincount(column, minlength=size) for column in orders.T])
    assert stats.chisquare(places.reshape(-1), ddof=2 * size - 2).pvalue > 1e-4
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % size).reshape(-1), minlength=size)
    assert steps[0] == 0 and stats.chisquare(steps[1:]).pvalue > 1e-4


@pytest.mark.parametrize("neighbour", ["epoch", "seed"])
def test_neighbouring_epochs_and_seeds_have_nothing_in_common(neighbour: str) -> None:
    """Two random permutations agree at one place on average, and a place's successor tells nothing of the other's."""
    size, pairs = 1000, 400
    orders = [epoch_order(size, *((0, k) if neighbour == "epoch" else (k, 0))) for k in range(pairs + 1)]
    agreements = [int((one == other).sum()) for one, other in pairwise(orders)]
    assert abs(np.mean(agreements) - 1) < 5 / pairs**0.5
    correlations = [stats.spearmanr(one, other).statistic for one, other in pairwise(orders)]
    assert abs(np.mean(correlations)) < 5 / (pairs * size) ** 0.5
    assert abs(np.std(correlations) * size**0.5 - 1) < 5 / (2 * pairs) ** 0.5


def test_a_large_set_is_shuffled_all_over() -> None:
    """Runs of places next to each other land in all sixteenths of the set alike."""
    size = 10**9 + 7
    for start in (0, size // 3, size - 16_000):
        sixteenths = shuffled(np.arange(start, start + 16_000), size, 2) * 16 // size
        assert stats.chisquare(np.bincount(sixteenths, minlength=16)).pvalue > 1e-4


def test_the_order_of_a_set_of_any_size_takes_no_memory() -> None:
    shuffled(np.arange(128), 1000, 0)
    tracemalloc.start()
    shuffled(np.arange(128) + 10**12, 10**13, 0)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 60), seed=seeds, batch=st.integers(1, 50), ranks=st.sampled_from([1, 2, 3, 4]))
def test_the_ranks_together_see_each_item_once_an_epoch(size: int, seed: int, batch: int, ranks: int) -> None:
    dataset = set_of(list(range(size)))
    loaders = [Loader(dataset, seed, rank=rank, num_ranks=ranks) for rank in range(ranks)]
    alone, steps = Loader(dataset, seed), math.lcm(size, batch) // batch
    seen: list[int] = []
    for step in range(steps):
        parts = [loader.batch(step * batch, batch).items.reshape(-1).tolist() for loader in loaders]
        assert max(map(len, parts)) - min(map(len, parts)) <= (batch % ranks > 0)
        seen += [level for part in parts for level in part]
        assert seen[step * batch :] == alone.batch(step * batch, batch).items.reshape(-1).tolist()
    for epoch in range(len(seen) // size):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_ranks_that_do_not_exist_are_rejected() -> None:
    for rank, ranks in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(UsageError, match="rank"):
            Loader(set_of([1]), rank=rank, num_ranks=ranks)


def test_senseless_requests_of_the_loader_are_rejected() -> None:
    with pytest.raises(UsageError, match="empty data set"):
        Loader(set_of([1]).subset([]), 0)
    with pytest.raises(UsageError, match="seed"):
        Loader(set_of([1]), -1)
    with pytest.raises(UsageError, match="start at 0"):
        Loader(set_of([1]), 0).batch(-1, 2)
