"""A bank of rows is the same however its stream was cut, holds all while all fit, and is uniform beyond that."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import ReservoirSample
from undiffuse.metrics.reservoir import splitmix64

WORD = (1 << 64) - 1


def banked(numbers: Tensor, capacity: int) -> ReservoirSample:
    bank = ReservoirSample(capacity)
    bank.update(rows_of(numbers), numbers)
    return bank


def rows_of(numbers: Tensor) -> Tensor:
    return torch.stack([numbers.double(), -numbers.double()], 1)


def same(a: ReservoirSample, b: ReservoirSample) -> bool:
    return torch.equal(a.rows, b.rows) and torch.equal(a.numbers, b.numbers) and a.seen == b.seen


def splitmix_by_hand(number: int) -> int:
    z = (number + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_hash_is_splitmix64_in_unbounded_integers(numbers: list[int]) -> None:
    found = [value & WORD for value in splitmix64(torch.tensor(numbers)).tolist()]
    assert found == [splitmix_by_hand(number & WORD) for number in numbers]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 70), st.randoms(use_true_random=False), st.integers(1, 9))
def test_batches_parts_and_order_do_not_matter(count: int, capacity: int, random: object, parts: int) -> None:
    numbers = 1000 - 7 * torch.arange(count)
    whole = banked(numbers, capacity)
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    merged = ReservoirSample(capacity)
    for number in range(parts):
        part = ReservoirSample(capacity)
        for batch in numbers[order[number::parts]].split(3):
            part.update(rows_of(batch), batch)
        merged = part.merge(merged)
    assert same(merged, whole)
    assert len(whole) == min(count, capacity) and whole.complete == (count <= capacity)
    assert torch.equal(whole.rows, rows_of(whole.numbers))
    assert torch.equal(whole.numbers, whole.numbers.sort().values)


def test_the_lowest_hashes_are_kept() -> None:
    numbers = torch.arange(500)
    expected = sorted(range(500), key=lambda n: (splitmix_by_hand(n) + (1 << 63)) & WORD)[:40]
    assert banked(numbers, 40).numbers.tolist() == sorted(expected)


def test_kept_numbers_are_uniform_whatever_their_pattern() -> None:
    kept = banked(10 * torch.arange(40_000), 4000).numbers // 10
    for share in (kept // 4000, kept % 10):  # blocks of the stream, classes that come in turn
        counts = torch.bincount(share, minlength=10).double()
        assert float(((counts - 400) ** 2 / 400).sum()) < 9 + 5 * math.sqrt(18)


def test_reduced_is_the_smaller_bank_of_the_same_stream() -> None:
    numbers = torch.arange(300)
    assert same(banked(numbers, 100).reduced(30), banked(numbers, 30))
    with pytest.raises(UsageError, match=r"reduced to 1\.\.100 rows, got 101"):
        banked(numbers, 100).reduced(101)


def test_round_trip_and_going_on() -> None:
    bank = banked(torch.arange(50), 20)
    copy = ReservoirSample.from_tensors(bank.tensors())
    assert same(bank, copy)
    more = torch.arange(50, 90)
    copy.update(rows_of(more), more)
    assert same(copy, banked(torch.arange(90), 20))
    assert same(bank, banked(torch.arange(50), 20)), "the copy shares its memory"
    assert ReservoirSample.from_tensors(ReservoirSample(3).tensors()).seen == 0


def test_merging_leaves_operands_alone() -> None:
    a, b = banked(torch.arange(30), 20), banked(torch.arange(30, 60), 20)
    a.merge(b).update(rows_of(torch.arange(60, 90)), torch.arange(60, 90))
    assert same(a, banked(torch.arange(30), 20)) and same(b, banked(torch.arange(30, 60), 20))


def test_memory_does_not_grow_with_the_stream() -> None:
    bank = ReservoirSample(16)
    for start in range(0, 4096, 64):
        numbers = torch.arange(start, start + 64)
        bank.update(rows_of(numbers), numbers)
    assert bank.seen == 4096 and sum(value.numel() for value in bank.tensors().values()) == 16 * 3 + 2
    assert bank._store is not None and len(bank._store) == 16


def test_rows_of_any_shape_and_type() -> None:
    images = torch.arange(5 * 12, dtype=torch.uint8).reshape(5, 3, 2, 2)
    bank = ReservoirSample(10)
    bank.update(images[:0], torch.arange(0))
    assert bank.rows.shape == (0, 3, 2, 2)
    bank.update(images.flip(0), torch.arange(5).flip(0))
    assert torch.equal(bank.rows, images) and bank.rows.dtype == torch.uint8


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (torch.tensor([1, 2, 1]), "unique in a set, got 1 twice"),
        (torch.tensor([7, 8, 3]), "unique in a set, got 3 twice"),
        (torch.tensor([1, 2]), r"int64 of shape \(3,\)"),
        (torch.tensor([1.0, 2.0, 4.0]), "numbers must be int64"),
    ],
)
def test_bad_numbers_are_rejected_and_change_nothing(numbers: Tensor, message: str) -> None:
    bank = banked(torch.arange(5), 8)
    with pytest.raises(UsageError, match=message):
        bank.update(torch.zeros(3, 2, dtype=torch.float64), numbers)
    assert same(bank, banked(torch.arange(5), 8))


def test_what_does_not_fit_together_is_rejected() -> None:
    bank = banked(torch.arange(5), 8)
    with pytest.raises(UsageError, match="all rows of a set must have one shape and dtype"):
        bank.update(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([9]))
    with pytest.raises(UsageError, match=r"now \(2,\) of torch.float32"):
        bank.update(torch.zeros(1, 2), torch.tensor([9]))
    with pytest.raises(UsageError, match="capacity 8 and 9"):
        bank.merge(ReservoirSample(9))
    with pytest.raises(UsageError, match="got 0 twice"):
        bank.merge(banked(torch.arange(5), 8))
    with pytest.raises(UsageError, match="capacity must be at least 1"):
        ReservoirSample(0)
