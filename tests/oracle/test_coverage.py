"""Precision, recall, density and coverage: not swapped, exact on ties, and as the formulas foretell."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import coverage as module
from undiffuse.metrics.coverage import Coverage, coverage, expected_coverage


def uniform(num: int, dim: int, seed: int = 0) -> Tensor:
    return torch.rand(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shares(result: Coverage) -> tuple[float, float, float, float]:
    return result.precision, result.recall, result.density, result.coverage


def by_hand(real: list[list[int]], generated: list[list[int]], k: int) -> tuple[float, float, float, float]:
    """Whole numbers only, so that every tie is one."""

    def apart(p: list[int], q: list[int]) -> int:
        return sum((x - y) ** 2 for x, y in zip(p, q, strict=True))

    def radii(rows: list[list[int]]) -> list[int]:
        return [sorted(apart(p, q) for j, q in enumerate(rows) if j != i)[k - 1] for i, p in enumerate(rows)]

    real_radii, generated_radii = radii(real), radii(generated)
    around = [sum(apart(g, r) <= radius for r, radius in zip(real, real_radii, strict=True)) for g in generated]
    recalled = [any(apart(g, r) <= w for g, w in zip(generated, generated_radii, strict=True)) for r in real]
    covered = [any(apart(g, r) <= radius for g in generated) for r, radius in zip(real, real_radii, strict=True)]
    return (
        sum(n > 0 for n in around) / len(generated),
        sum(recalled) / len(real),
        sum(around) / (k * len(generated)),
        sum(covered) / len(real),
    )


def test_precision_and_recall_are_not_swapped() -> None:
    """Generated images strictly inside a part of the real ones are all real enough, and miss most of them."""
    real = uniform(1000, 2)
    part = 0.1 + 0.25 * uniform(800, 2, 1)
    inside, around = coverage(real, part), coverage(part, real)
    assert inside.precision == 1 and inside.recall < 0.12 and inside.coverage < 0.12
    assert around.recall == 1 and around.precision < 0.12


def test_one_mode_dropped() -> None:
    """Two far clusters, of which one is generated: recall and coverage are the half that is there."""
    clusters = torch.cat([uniform(300, 3), 100 + uniform(300, 3, 1)])
    result = coverage(clusters, uniform(600, 3, 2))
    assert result.precision > 0.95
    assert 0.45 < result.recall <= 0.5 and 0.45 < result.coverage <= 0.5


def test_apart_and_equal() -> None:
    a = uniform(200, 4)
    assert shares(coverage(a, a + 50)) == (0, 0, 0, 0)
    same = coverage(a, a.flip(0), k=3)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(4 / 3), "k + 1 rows of a set lie in each of its closed balls"


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(("dim", "levels", "offset"), [(1, 30, 0), (2, 6, 10**6), (3, 3, 0), (2, 40, -(10**4))])
def test_ties_and_copies_are_decided_exactly(k: int, dim: int, levels: int, offset: int) -> None:
    generator = torch.Generator().manual_seed(dim + levels)
    real = offset + torch.randint(0, levels, (60, dim), generator=generator)
    generated = offset + torch.randint(0, levels, (45, dim), generator=generator)
    result = coverage(real.double(), generated.double(), k)
    assert shares(result) == pytest.approx(by_hand(real.tolist(), generated.tolist(), k), rel=1e-14)


def test_a_far_row_does_not_blur_the_near_ones() -> None:
    """One row at 10^10 moves the centre so far off that the matrix product loses all distances of the others."""
    generator = torch.Generator().manual_seed(4)
    real, generated = (torch.randint(0, 40, (60, 1), generator=generator) for _ in range(2))
    real[17, 0] = 10**10
    result = coverage(real.double(), generated.double(), k=3)
    assert shares(result) == pytest.approx(by_hand(real.tolist(), generated.tolist(), 3), rel=1e-14)


def test_scale_and_shift_change_nothing_even_where_products_cancel() -> None:
    real, generated = uniform(150, 5), 0.9 * uniform(130, 5, 1)
    reference = shares(coverage(real, generated))
    for scale, shift in [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e3)]:
        assert shares(coverage(real * scale + shift, generated * scale + shift)) == reference


@pytest.mark.parametrize("elements", [1, 100, 1 << 22])
def test_chunks_do_not_matter(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = uniform(70, 3), uniform(90, 3, 1) + 0.2
    reference = coverage(real, generated)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
    assert coverage(real, generated) == reference


@pytest.mark.parametrize(("num_real", "num_generated", "k"), [(400, 400, 5), (300, 900, 3), (600, 200, 5)])
def test_two_draws_of_one_distribution(num_real: int, num_generated: int, k: int) -> None:
    results = [coverage(uniform(num_real, 2, 2 * i), uniform(num_generated, 2, 2 * i + 1), k) for i in range(30)]
    covered = torch.tensor([r.coverage for r in results], dtype=torch.float64)
    density = torch.tensor([r.density for r in results], dtype=torch.float64)
    expected = expected_coverage(num_real, num_generated, k)
    assert abs(float(covered.mean()) - expected) < 4 * float(covered.std()) / 30**0.5
    assert abs(float(density.mean()) - 1) < 4 * float(density.std()) / 30**0.5


def test_expected_coverage_by_counting() -> None:
    """k = 1, two real and one generated: the nearest of the two others is real in one of two cases."""
    assert expected_coverage(2, 1, 1) == pytest.approx(1 - 1 / 2)
    assert expected_coverage(3, 2, 2) == pytest.approx(1 - (2 * 1) / (4 * 3))


@pytest.mark.parametrize("name", ["precision", "density"])
def test_errors_over_generated_rows_are_the_spread_of_repetitions(name: str) -> None:
    real = uniform(300, 2)
    results = [coverage(real, 1.3 * uniform(300, 2, i + 1) - 0.15) for i in range(60)]
    spread = torch.tensor([getattr(r, name) for r in results]).std()
    stated = torch.tensor([getattr(r, f"{name}_error") for r in results]).mean()
    assert 0.75 < float(stated / spread) < 1.35


def test_error_of_recall_is_the_spread_over_real_rows() -> None:
    generated = 0.8 * uniform(300, 2)
    results = [coverage(uniform(300, 2, i + 1), generated) for i in range(60)]
    spread = torch.tensor([r.recall for r in results]).std()
    stated = torch.tensor([r.recall_error for r in results]).mean()
    assert 0.75 < float(stated / spread) < 1.35


def test_a_share_of_one_is_not_reported_to_be_certain() -> None:
    result = coverage(uniform(100, 2), 0.3 + 0.3 * uniform(100, 2, 1))
    assert result.precision == 1 and 0 < result.precision_error < 0.03


def test_more_noise_is_less_precise() -> None:
    real = uniform(400, 2)
    noise = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    precision = [coverage(real, uniform(400, 2, 5) + level * noise).precision for level in (0.0, 0.1, 0.3, 1.0)]
    assert all(a > b for a, b in pairwise(precision))


def test_too_few_or_unlike_rows_are_rejected() -> None:
    rows = uniform(20, 3)
    with pytest.raises(UsageError, match="k = 5 need at least 6 images on each side, got 20 real and 5 generated"):
        coverage(rows, rows[:5])
    with pytest.raises(UsageError, match="k must be at least 1"):
        coverage(rows, rows, k=0)
    with pytest.raises(UsageError, match=r"\(N, 3\), got \(20, 2\)"):
        coverage(rows, rows[:, :2])
    with pytest.raises(UsageError, match="20 of 20 feature rows hold NaN"):
        coverage(rows, rows * math.nan)


def test_it_states_its_protocol() -> None:
    record = coverage(uniform(20, 3), uniform(30, 3, 1), k=4).to_dict()
    assert (record["num_real"], record["num_generated"], record["k"], record["dim"]) == (20, 30, 4, 3)
    assert "4-th nearest" in record["protocol"]
