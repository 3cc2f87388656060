"""The inception score of probability tables whose score is known, its merging, and its error against repetitions."""

import math

import pytest
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import InceptionScoreAccumulator


def table(num: int, num_classes: int, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(num, num_classes, dtype=torch.float64, generator=generator), 1)


@pytest.mark.parametrize("num_classes", [2, 10, 37])
def test_sure_and_even_is_the_number_of_classes(num_classes: int) -> None:
    one_hot = torch.eye(num_classes).repeat(40, 1)
    assert InceptionScoreAccumulator.of(one_hot).score == pytest.approx(num_classes, rel=1e-12)


@pytest.mark.parametrize("row", [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
def test_all_alike_is_one(row: list[float]) -> None:
    accumulator = InceptionScoreAccumulator.of(torch.tensor(row, dtype=torch.float64).repeat(50, 1))
    assert accumulator.score == pytest.approx(1, rel=1e-12)
    assert accumulator.standard_error < 1e-6 and accumulator.split_std < 1e-6


def test_uneven_classes_and_unsure_rows() -> None:
    """Shares 3/4 and 1/4, each with confidence c: IS = exp( H(marginal) - H(c) )."""
    c = 0.9
    sure, other = [c, 1 - c], [1 - c, c]
    accumulator = InceptionScoreAccumulator.of(torch.tensor([sure, sure, sure, other] * 25, dtype=torch.float64))

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    expected = math.exp(entropy(0.75 * c + 0.25 * (1 - c)) - entropy(c))
    assert accumulator.score == pytest.approx(expected, rel=1e-12)


def test_it_is_the_mean_divergence_from_the_marginal() -> None:
    rows = table(200, 7)
    divergence = (rows * (rows.log() - rows.mean(0).log())).sum(1).mean()
    assert InceptionScoreAccumulator.of(rows).score == pytest.approx(math.exp(divergence), rel=1e-12)


def test_splits_go_by_number_and_classes_in_turn_do_not_matter() -> None:
    accumulator = InceptionScoreAccumulator.of(torch.eye(10).repeat(40, 1))
    assert accumulator.split_scores == pytest.approx([10.0] * 10), "each split has every class"
    assert (accumulator.split_mean, accumulator.split_std) == (pytest.approx(10), pytest.approx(0, abs=1e-9))


def test_split_values_are_those_of_the_splits() -> None:
    rows = table(230, 4)
    member = torch.tensor([(i + i // 10) % 10 for i in range(230)])
    scores = torch.tensor(
        [InceptionScoreAccumulator.of(rows[member == g]).score for g in range(10)], dtype=torch.float64
    )
    accumulator = InceptionScoreAccumulator.of(rows)
    assert accumulator.split_scores == pytest.approx(scores.tolist(), rel=1e-12)
    assert accumulator.split_mean == pytest.approx(float(scores.mean()), rel=1e-12)
    assert accumulator.split_std == pytest.approx(float(scores.std(unbiased=False)), rel=1e-12)


def test_seven_uneven_shards_in_any_order_equal_one_pass() -> None:
    rows, numbers = table(500, 6), torch.arange(500)
    whole = InceptionScoreAccumulator.of(rows)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    parts = []
    for part in order.split([1, 2, 3, 17, 100, 0, 377]):
        accumulator = InceptionScoreAccumulator(6)
        for batch in part.split(9):
            accumulator.update(rows[batch], numbers[batch])
        parts.append(accumulator)
    merged = InceptionScoreAccumulator(6)
    for index in (4, 0, 6, 2, 5, 1, 3):
        merged = parts[index].merge(merged)
    assert merged.count == 500 and torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(merged.probability_sums, whole.probability_sums, rtol=1e-12, atol=1e-12)
    assert merged.score == pytest.approx(whole.score, rel=1e-12)
    assert merged.standard_error == pytest.approx(whole.standard_error, rel=1e-9)
    assert parts[6].count == 377, "an operand changed"


def test_error_is_the_spread_of_repetitions_and_the_value_is_a_little_small() -> None:
    accumulators = [InceptionScoreAccumulator.of(table(300, 5, seed)) for seed in range(80)]
    values = torch.tensor([t.score for t in accumulators], dtype=torch.float64)
    limit = InceptionScoreAccumulator.of(table(200_000, 5, 999)).score
    stated = torch.tensor([t.standard_error for t in accumulators]).square().mean().sqrt()
    assert 0.75 < float(stated / values.std()) < 1.35
    assert float(values.mean()) < limit and limit - float(values.mean()) < 0.05 * limit


def test_small_sets_lose_half_a_class_each() -> None:
    """Sure and even classes at random: the score falls short of K by the fraction (K - 1) / 2N."""
    num_classes, num = 10, 400
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, num_classes, (200, num), generator=generator)
    scores = [InceptionScoreAccumulator.of(torch.eye(num_classes)[row]).score for row in labels]
    loss = 1 - sum(scores) / len(scores) / num_classes
    assert loss == pytest.approx((num_classes - 1) / (2 * num), rel=0.15)


def test_round_trip() -> None:
    accumulator = InceptionScoreAccumulator.of(table(60, 4))
    copy = InceptionScoreAccumulator.from_tensors(accumulator.tensors())
    assert copy.to_dict() == accumulator.to_dict()
    copy.update(table(10, 4, 1), torch.arange(60, 70))
    assert (accumulator.count, copy.count) == (60, 70)


def test_it_states_its_protocol() -> None:
    record = InceptionScoreAccumulator.of(table(60, 4)).to_dict()
    assert (record["count"], record["num_classes"], record["num_splits"]) == (60, 4, 10)
    assert "biased" in record["protocol"]


def test_what_makes_no_sense_is_rejected() -> None:
    with pytest.raises(UsageError, match="at least 20 images, got 19"):
        _ = InceptionScoreAccumulator.of(table(19, 3)).score
    with pytest.raises(UsageError, match="each of its 10 splits"):
        _ = InceptionScoreAccumulator.of(table(30, 3), 100 * torch.arange(30)).standard_error
    with pytest.raises(UsageError, match="softmax first"):
        InceptionScoreAccumulator.of(torch.full((3, 4), math.nan))
    with pytest.raises(UsageError, match=r"\(B, 3\), got \(5, 4\)"):
        InceptionScoreAccumulator(3).update(table(5, 4), torch.arange(5))
    with pytest.raises(UsageError, match="got 2 twice"):
        InceptionScoreAccumulator.of(table(3, 4), torch.tensor([2, 1, 2]))
    with pytest.raises(UsageError, match="different classes"):
        InceptionScoreAccumulator(3).merge(InceptionScoreAccumulator(4))
    with pytest.raises(UsageError, match="num_classes"):
        InceptionScoreAccumulator(1)
