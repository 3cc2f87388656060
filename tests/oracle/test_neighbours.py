"""Nearest neighbours against brute force, copying against constructed copies, class shares against counts."""

import math

import pytest
import torch

from undiffuse.errors import UsageError
from undiffuse.metrics import ClassAccumulator, copying_summary, nearest_neighbours


def images(num: int, seed: int, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 1, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("k", "chunk"), [(1, 1000), (3, 7), (40, 13), (1, 1)])
def test_equals_brute_force_in_any_chunks(k: int, chunk: int) -> None:
    queries, references = images(23, 0), images(40, 1)
    found = nearest_neighbours(queries, references, k=k, chunk=chunk)
    exact = (queries.flatten(1).double()[:, None] - references.flatten(1).double()).square().sum(-1).sqrt()
    distances, indices = exact.sort(dim=1)
    torch.testing.assert_close(found.distances, distances[:, :k], rtol=1e-13, atol=0)
    assert torch.equal(found.indices, indices[:, :k])


def test_copies_have_distance_zero_far_from_the_origin() -> None:
    references = 1e4 + torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    found = nearest_neighbours(references[[7, 3]], references, chunk=16)
    assert found.distances.tolist() == [[0.0], [0.0]]
    assert found.indices.tolist() == [[7], [3]]


def test_no_queries() -> None:
    found = nearest_neighbours(images(0, 0), images(4, 1), k=2)
    assert found.distances.shape == found.indices.shape == (0, 2)


def test_copying_is_seen() -> None:
    training, held_out, fresh = images(300, 0), images(200, 1), images(200, 2)
    copied = torch.cat([training[:100], fresh[:100]])
    honest, copying = copying_summary(fresh, held_out, training), copying_summary(copied, held_out, training)
    assert honest.ratio == pytest.approx(1, abs=0.05)
    assert honest.share_below_first_percentile < 0.06
    assert copying.share_below_minimum >= 0.5
    assert copying_summary(training[:50], held_out, training).ratio == 0
    assert copying.to_dict()["num_training"] == 300


def test_ratio_is_none_when_held_out_images_are_training_images() -> None:
    training = images(20, 0)
    assert copying_summary(images(5, 1), training[:10], training).ratio is None


def test_bad_rows_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"one shape, got \(3, 1, 6, 6\) and \(4, 1, 8, 8\)"):
        nearest_neighbours(images(3, 0), images(4, 0, size=8))
    with pytest.raises(UsageError, match="need at least 5 reference images, got 4"):
        nearest_neighbours(images(3, 0), images(4, 0), k=5)
    with pytest.raises(UsageError, match="queries hold NaN"):
        nearest_neighbours(torch.tensor([[math.nan]]), torch.ones(2, 1))
    with pytest.raises(UsageError, match="at least 1 sample"):
        copying_summary(images(0, 0), images(2, 0), images(2, 1))


# --- class shares ----------------------------------------------------------------------------------------------


def test_tally_counts() -> None:
    rows = [[0.95, 0.05, 0], [0.9, 0, 0.1], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]
    probabilities = torch.tensor(rows, dtype=torch.float64)
    accumulator = ClassAccumulator.of(probabilities)
    assert accumulator.histogram == [3, 0, 1]
    assert accumulator.confident_share == 0.75
    assert accumulator.confident_share_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert accumulator.classes_covered == 2
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert accumulator.balance == pytest.approx(expected)


def test_balance_at_its_ends() -> None:
    assert ClassAccumulator.of(torch.eye(10)).balance == pytest.approx(1)
    one = ClassAccumulator.of(torch.eye(10)[[3, 3, 3]])
    assert one.balance == 0 and one.classes_covered == 1


def test_merged_accumulators_equal_one_pass() -> None:
    probabilities = torch.randn(57, 10, generator=torch.Generator().manual_seed(0)).mul(4).softmax(1)
    whole, merged = ClassAccumulator.of(probabilities), ClassAccumulator()
    for part in probabilities.split([1, 0, 20, 36]):
        merged = merged.merge(ClassAccumulator.of(part))
    assert merged.to_dict() == whole.to_dict()


def test_tally_rejects_what_are_no_probabilities() -> None:
    with pytest.raises(UsageError, match=r"\(B, 10\), got \(2, 3\)"):
        ClassAccumulator().update(torch.ones(2, 3))
    with pytest.raises(UsageError, match="sum to 1"):
        ClassAccumulator.of(torch.ones(2, 10))
    with pytest.raises(UsageError, match="sum to 1"):
        ClassAccumulator.of(torch.full((2, 10), math.nan))
    with pytest.raises(UsageError, match="at least 1 image"):
        _ = ClassAccumulator().confident_share
