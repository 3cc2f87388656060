"""The kernel distance against closed forms of Gaussians, against plain sums, and its error against repetitions."""

import math

import pytest
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import kernel
from undiffuse.metrics.kernel import kernel_distance


def draws(num: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Gaussian:
    """N(mean, factor factor^T) in D dimensions."""

    def __init__(self, dim: int, seed: int, shift: float) -> None:
        self.mean = shift * draws(1, dim, seed)[0]
        self.factor = draws(dim, dim, seed + 1) / dim**0.5 + torch.eye(dim, dtype=torch.float64)
        self.covariance = self.factor @ self.factor.T

    def draws(self, num: int, seed: int) -> Tensor:
        return self.mean + draws(num, len(self.mean), seed) @ self.factor.T


def expected_kernel(a: Gaussian, b: Gaussian, gamma: float, coef0: float) -> float:
    """E (gamma x.y + coef0)^3 of independent x, y, from the first three moments of x.y.

    Given y, x.y is normal with mean m_a.y and variance y^T A y; so E (x.y)^3 = E (m_a.y)^3 + 3 E (m_a.y) (y^T A y).
    """
    dot = a.mean @ b.mean
    first = dot
    second = ((a.covariance + a.mean.outer(a.mean)) * (b.covariance + b.mean.outer(b.mean))).sum()
    cube = dot**3 + 3 * dot * (a.mean @ b.covariance @ a.mean)
    trace = (a.covariance * b.covariance).sum() + b.mean @ a.covariance @ b.mean
    mixed = dot * trace + 2 * (a.mean @ b.covariance @ a.covariance @ b.mean)
    third = cube + 3 * mixed
    return float(coef0**3 + 3 * coef0**2 * gamma * first + 3 * coef0 * gamma**2 * second + gamma**3 * third)


def true_distance(a: Gaussian, b: Gaussian, gamma: float, coef0: float = 1.0) -> float:
    return (
        expected_kernel(a, a, gamma, coef0)
        + expected_kernel(b, b, gamma, coef0)
        - 2 * expected_kernel(a, b, gamma, coef0)
    )


def by_hand(a: Tensor, b: Tensor, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> float:
    gamma = 1 / a.shape[1] if gamma is None else gamma

    def mean_of(x: Tensor, y: Tensor, skip: bool) -> float:
        values = [
            (gamma * float(p @ q) + coef0) ** degree
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (skip and i == j)
        ]
        return math.fsum(values) / len(values)

    return mean_of(a, a, True) + mean_of(b, b, True) - 2 * mean_of(a, b, False)


@pytest.mark.parametrize(("shift_a", "shift_b"), [(0.0, 0.0), (0.5, -1.0)])
@pytest.mark.parametrize(("gamma", "coef0"), [(None, 1.0), (0.3, 0.5)])
def test_gaussians_in_closed_form(shift_a: float, shift_b: float, gamma: float | None, coef0: float) -> None:
    a, b = Gaussian(6, 1, shift_a), Gaussian(6, 7, shift_b)
    estimate = kernel_distance(a.draws(6000, 10), b.draws(5000, 11), gamma=gamma, coef0=coef0)
    truth = true_distance(a, b, estimate.gamma, coef0)
    assert truth > 8 * estimate.standard_error > 0, "the test must be able to see a difference"
    assert abs(estimate.value - truth) < 4 * estimate.standard_error


def test_degree_one_is_the_distance_of_the_means() -> None:
    a, b = draws(50, 4) + 1, draws(40, 4, 1)
    spread = a.var(0).sum() / len(a) + b.var(0).sum() / len(b)
    expected = float((a.mean(0) - b.mean(0)).square().sum() - spread) / 4
    assert kernel_distance(a, b, degree=1).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("block", [3, 1024])
def test_plain_sums_and_any_block(degree: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    a, b = draws(17, 3, 1), draws(11, 3, 2) + 0.5
    estimate = kernel_distance(a, b, degree=degree, gamma=0.7, coef0=2.0)
    assert estimate.value == pytest.approx(by_hand(a, b, degree, 0.7, 2.0), rel=1e-12)
    monkeypatch.undo()
    assert estimate.standard_error == pytest.approx(
        kernel_distance(a, b, degree=degree, gamma=0.7, coef0=2.0).standard_error, rel=1e-9
    )


def test_symmetric_and_blind_to_order() -> None:
    a, b = draws(30, 5), draws(20, 5, 1) + 0.3
    there, back = kernel_distance(a, b), kernel_distance(b, a.flip(0))
    assert there.value == pytest.approx(back.value, rel=1e-12)
    assert there.standard_error == pytest.approx(back.standard_error, rel=1e-9)
    assert (there.num_a, there.num_b) == (back.num_b, back.num_a) == (30, 20)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.15, 1.0), (1.0, 1.0), (0.0, 1.5)])
@pytest.mark.parametrize(("num_a", "num_b"), [(60, 60), (40, 120)])
def test_unbiased_and_its_error_is_the_spread_of_repetitions(
    shift: float, scale: float, num_a: int, num_b: int
) -> None:
    """Alike, hardly apart (both orders of the variance count) and far apart."""
    a, b = Gaussian(4, 1, 0.0), Gaussian(4, 1, 0.0)
    b.mean, b.factor = b.mean + shift, scale * b.factor
    b.covariance = b.factor @ b.factor.T
    estimates = [kernel_distance(a.draws(num_a, 2 * i), b.draws(num_b, 2 * i + 1)) for i in range(150)]
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    truth = true_distance(a, b, 1 / 4)
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / len(values) ** 0.5
    stated = torch.tensor([e.standard_error for e in estimates]).square().mean().sqrt()
    assert 0.75 < float(stated / values.std()) < 1.35


@pytest.mark.parametrize("shift", [0.0, 0.2, 2.0])
def test_variance_is_the_jackknife_less_what_it_counts_twice(shift: float) -> None:
    a, b = draws(60, 3, 1), 1.2 * draws(90, 3, 2) + shift
    without_a = [kernel_distance(torch.cat([a[:i], a[i + 1 :]]), b).value for i in range(len(a))]
    without_b = [kernel_distance(a, torch.cat([b[:i], b[i + 1 :]])).value for i in range(len(b))]
    sides = [torch.tensor(values, dtype=torch.float64) for values in (without_a, without_b)]
    jackknife = sum(float(v.var(unbiased=False)) * (len(v) - 1) for v in sides)

    def pair_part(x: Tensor, y: Tensor) -> float:
        matrix = (x @ y.T / 3 + 1) ** 3
        if x is y:
            matrix.fill_diagonal_(math.nan)
        return float((matrix - matrix.nanmean(1, True) - matrix.nanmean(0) + matrix.nanmean()).square().nanmean())

    pairs = 2 * pair_part(a, a) / 60**2 + 2 * pair_part(b, b) / 90**2 + 4 * pair_part(a, b) / (60 * 90)
    expected = max(jackknife - 2 * pairs, 0) + pairs
    assert 0 < pairs < expected * 1.0001
    assert kernel_distance(a, b).standard_error ** 2 == pytest.approx(expected, rel=0.03)


def test_below_zero_by_chance_where_alike() -> None:
    signs = [kernel_distance(draws(50, 3, 2 * i), draws(50, 3, 2 * i + 1)).value < 0 for i in range(40)]
    assert 5 < sum(signs) < 35


def test_a_constant_set_is_at_zero_with_no_error() -> None:
    same = torch.ones(12, 3)
    estimate = kernel_distance(same, same)
    assert estimate.value == pytest.approx(0, abs=1e-12) and estimate.standard_error < 1e-6


def test_it_states_its_protocol() -> None:
    record = kernel_distance(draws(12, 5), draws(13, 5)).to_dict()
    assert (record["num_a"], record["num_b"], record["dim"], record["degree"]) == (12, 13, 5, 3)
    assert (record["gamma"], record["coef0"]) == (0.2, 1.0)
    assert "unbiased" in record["protocol"] and "KID" not in str(record)


def test_what_makes_no_sense_is_rejected() -> None:
    good = draws(12, 4)
    with pytest.raises(UsageError, match="at least 10 images on each side, got 12 and 9"):
        kernel_distance(good, good[:9])
    with pytest.raises(UsageError, match=r"\(N, 4\), got \(12, 3\)"):
        kernel_distance(good, good[:, :3])
    with pytest.raises(UsageError, match="12 of 12 feature rows hold NaN"):
        kernel_distance(good * math.nan, good)
    with pytest.raises(UsageError, match="degree >= 1"):
        kernel_distance(good, good, degree=0)
    with pytest.raises(UsageError, match="at least 1 feature"):
        kernel_distance(good[:, :0], good[:, :0])
