"""Statistics and the Fréchet distance against closed forms and against scipy's matrix root."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import GaussianStatistics, GroupedStatistics, frechet_distance, frechet_estimate


def draws(num: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(mean: Tensor, covariance: Tensor) -> GaussianStatistics:
    return GaussianStatistics.from_moments(1000, mean.double(), covariance.double())


def random_covariance(dim: int, rank: int, seed: int) -> Tensor:
    factor = draws(dim, rank, seed)
    return factor @ factor.T


# --- statistics ------------------------------------------------------------------------------------------------


def test_one_pass_is_torch_cov() -> None:
    rows = draws(200, 5) @ random_covariance(5, 5, 1) + 7
    statistics = GaussianStatistics.of(rows)
    torch.testing.assert_close(statistics.covariance, torch.cov(rows.T), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics.mean, rows.mean(0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_seven_uneven_shards_equal_one_pass(offset: float) -> None:
    rows = draws(500, 12, seed=2) + offset
    whole = GaussianStatistics.of(rows)
    parts = [GaussianStatistics.of(part) for part in rows.split([1, 2, 3, 17, 100, 0, 377])]
    merged = GaussianStatistics(12)
    for part in [parts[i] for i in (4, 0, 6, 2, 5, 1, 3)]:
        merged = merged.merge(part)
    assert merged.count == 500
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12 * (1 + offset))


def test_batch_size_of_updates_does_not_matter_and_float32_is_collected_in_float64() -> None:
    rows = draws(101, 4).float() + 100
    whole, grouped = GaussianStatistics.of(rows), GroupedStatistics.of(rows, num_groups=4)
    for size in (1, 7, 101):
        single, dealt = GaussianStatistics(4), GroupedStatistics(4, num_groups=4)
        for part in rows.split(size):
            single.update(part)
            dealt.update(part)
        torch.testing.assert_close(single.scatter, whole.scatter, rtol=1e-12, atol=1e-12)
        for mine, theirs in zip(dealt.groups, grouped.groups, strict=True):
            assert mine.count == theirs.count
            torch.testing.assert_close(mine.scatter, theirs.scatter, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grouped.total.scatter, whole.scatter, rtol=1e-12, atol=1e-12)
    members = [i for i in range(101) if (i + i // 4) % 4 == 1]
    torch.testing.assert_close(grouped.groups[1].mean, rows[members].double().mean(0))


def test_merging_leaves_operands_alone() -> None:
    a, b = GaussianStatistics.of(draws(5, 2)), GaussianStatistics.of(draws(6, 2, 1))
    before = a.scatter.clone(), b.scatter.clone()
    merged = a.merge(b)
    merged.update(draws(3, 2))
    assert (a.count, b.count, merged.count) == (5, 6, 14)
    assert torch.equal(a.scatter, before[0]) and torch.equal(b.scatter, before[1])


def test_grouped_merge_keeps_every_row() -> None:
    rows = draws(45, 3)
    merged = GroupedStatistics.of(rows[:23]).merge(GroupedStatistics.of(rows[23:]))
    torch.testing.assert_close(merged.total.covariance, torch.cov(rows.T))


def test_statistics_reject_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="at least 2 images, got 1"):
        _ = GaussianStatistics.of(torch.ones(1, 3)).covariance
    with pytest.raises(UsageError, match=r"1 of 2 feature rows hold NaN"):
        GaussianStatistics.of(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]))
    with pytest.raises(UsageError, match=r"\(N, 3\), got \(4, 2\)"):
        GaussianStatistics(3).update(torch.zeros(4, 2))
    with pytest.raises(UsageError, match="merge statistics of 3 and 2"):
        GaussianStatistics(3).merge(GaussianStatistics(2))
    with pytest.raises(UsageError, match="num_groups"):
        GroupedStatistics(3, num_groups=1)
    with pytest.raises(UsageError, match="covariance"):
        GaussianStatistics.from_moments(5, torch.zeros(2), torch.zeros(3, 3))


def test_covariances_that_would_fill_the_machine_are_rejected_in_a_line() -> None:
    with pytest.raises(UsageError, match=r"27,648 features per image need covariances of 57\.0 GiB, at most 4 GiB"):
        GroupedStatistics(27_648)
    with pytest.raises(UsageError, match="efficientnet"):
        GaussianStatistics(27_648)


# --- the distance against closed forms -------------------------------------------------------------------------


def test_one_dimension() -> None:
    a, b = gaussian(torch.tensor([1.0]), torch.tensor([[4.0]])), gaussian(torch.tensor([-2.0]), torch.tensor([[0.25]]))
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 0.5) ** 2, rel=1e-14)


def test_diagonal() -> None:
    u, v, shift = draws(6, 1, 1).abs()[:, 0], draws(6, 1, 2).abs()[:, 0], draws(6, 1, 3)[:, 0]
    expected = float((shift**2).sum() + ((u.sqrt() - v.sqrt()) ** 2).sum())
    assert frechet_distance(gaussian(shift, u.diag()), gaussian(0 * shift, v.diag())) == pytest.approx(expected)


def test_commuting() -> None:
    basis = torch.linalg.qr(draws(5, 5)).Q
    u, v = torch.arange(1.0, 6.0).double(), torch.tensor([4.0, 9.0, 0.0, 1.0, 2.0]).double()
    a, b = basis @ u.diag() @ basis.T, basis @ v.diag() @ basis.T
    expected = float(((u.sqrt() - v.sqrt()) ** 2).sum())
    zero = torch.zeros(5)
    assert frechet_distance(gaussian(zero, a), gaussian(zero, b)) == pytest.approx(expected, rel=1e-12)


def test_two_by_two_that_do_not_commute() -> None:
    """For 2x2, tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB))."""
    a, b = random_covariance(2, 2, 4), random_covariance(2, 2, 5)
    product = a @ b
    root = math.sqrt(float(product.trace() + 2 * product.det().sqrt()))
    expected = float(a.trace() + b.trace()) - 2 * root
    assert frechet_distance(gaussian(torch.zeros(2), a), gaussian(torch.zeros(2), b)) == pytest.approx(expected)


@pytest.mark.parametrize("rank", [8, 3, 0])
def test_equal_is_zero_even_when_singular(rank: int) -> None:
    covariance = random_covariance(8, rank, 6) * 100
    both = gaussian(draws(8, 1)[:, 0], covariance)
    assert frechet_distance(both, both) < 1e-10


def test_rank_one_closed_form() -> None:
    """A = u u^T, B = v v^T: tr (A^1/2 B A^1/2)^1/2 = |u . v|."""
    u, v = draws(7, 1, 1), draws(7, 1, 2)
    expected = float((u**2).sum() + (v**2).sum() - 2 * (u.T @ v).abs())
    zero = torch.zeros(7)
    assert frechet_distance(gaussian(zero, u @ u.T), gaussian(zero, v @ v.T)) == pytest.approx(expected, rel=1e-9)


def test_against_scipy_and_symmetric() -> None:
    a = gaussian(draws(20, 1, 1)[:, 0], random_covariance(20, 30, 2))
    b = gaussian(draws(20, 1, 3)[:, 0], random_covariance(20, 30, 4))
    root = torch.as_tensor(scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real)
    expected = float(((a.mean - b.mean) ** 2).sum() + (a.covariance + b.covariance - 2 * root).trace())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_different_features_are_rejected() -> None:
    with pytest.raises(UsageError, match="cannot compare 2 features with 3"):
        frechet_distance(GaussianStatistics.of(draws(5, 2)), GaussianStatistics.of(draws(5, 3)))


# --- its error -------------------------------------------------------------------------------------------------


def test_estimate_reports_bias_and_error_truthfully() -> None:
    """Over repeated draws: the value is too large, less so corrected, and the spread is what the error says."""
    dim, num, truth = 6, 200, 6 * 0.25
    estimates = [
        frechet_estimate(
            GroupedStatistics.of(draws(num, dim, 2 * i)), GroupedStatistics.of(1.5 * draws(num, dim, i + 999))
        )
        for i in range(0, 400, 8)
    ]
    values = torch.tensor([e.value for e in estimates])
    corrected = torch.tensor([e.corrected for e in estimates])
    assert values.mean() - truth > 0.05
    assert abs(corrected.mean() - truth) < 0.4 * abs(values.mean() - truth)
    mean_error = torch.tensor([e.standard_error for e in estimates]).mean()
    assert 0.6 < float(mean_error / values.std()) < 1.7


def test_estimate_states_its_protocol() -> None:
    a, b = GroupedStatistics.of(draws(60, 3)), GroupedStatistics.of(draws(80, 3, 1) + 1)
    estimate = frechet_estimate(a, b)
    assert estimate.value == pytest.approx(frechet_distance(a.total, b.total), rel=1e-12)
    record = estimate.to_dict()
    assert (record["num_a"], record["num_b"], record["dim"]) == (60, 80, 3)
    assert "biased" in record["protocol"]


def test_estimate_reports_how_many_images_it_needs() -> None:
    enough = GroupedStatistics.of(draws(200, 96))
    with pytest.raises(UsageError, match="needs at least 97 images on each side, got 96"):
        frechet_estimate(enough, GroupedStatistics.of(draws(96, 96)))
    with pytest.raises(UsageError, match="at least 20 images"):
        frechet_estimate(GroupedStatistics.of(draws(19, 2)), GroupedStatistics.of(draws(30, 2)))


def test_classes_in_turn_do_not_make_groups_of_one_class() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(10, 4, generator=generator)
    labels = torch.arange(2000) % 10
    clouds = [centres[labels] + torch.randn(2000, 4, generator=generator) for _ in range(2)]
    in_turn = frechet_estimate(*(GroupedStatistics.of(cloud) for cloud in clouds))
    order = torch.randperm(2000, generator=generator)
    shuffled = frechet_estimate(*(GroupedStatistics.of(cloud[order]) for cloud in clouds))
    assert in_turn.standard_error < 3 * shuffled.standard_error
