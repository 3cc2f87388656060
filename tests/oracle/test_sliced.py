"""The sliced Wasserstein distance against closed forms and against scipy's one-dimensional distance."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance_nd
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.sliced import directions, sliced_wasserstein, sliced_wasserstein_error


def draws(num: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_shifted_copy() -> None:
    shift = torch.tensor([3.0, 4.0], dtype=torch.float64)
    cloud = draws(300, 2)
    value = sliced_wasserstein(cloud, cloud + shift)
    assert value == pytest.approx(float((directions(2) @ shift).abs().mean()), rel=1e-12)
    assert sliced_wasserstein(cloud, cloud + shift, 20_000) == pytest.approx(2 * 5 / math.pi, rel=0.02)


def test_two_gaussians_of_shifted_mean() -> None:
    shift = torch.tensor([2.0, 0.0], dtype=torch.float64)
    value = sliced_wasserstein(draws(4000, 2, 1), draws(4000, 2, 2) + shift, 1000)
    assert value == pytest.approx(2 * 2 / math.pi, rel=0.05)


def test_scaled_copy() -> None:
    """N(0, 1) and N(0, 9) on the line are 2 standard deviations apart."""
    points = draws(500, 1)
    assert sliced_wasserstein(points, 3 * points) == pytest.approx(2 * float(points.square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize(("num_a", "num_b"), [(7, 7), (6, 9), (5, 8), (1, 4)])
def test_unequal_counts_are_repeated_points(num_a: int, num_b: int) -> None:
    a, b = draws(num_a, 2, 3), draws(num_b, 2, 4)
    whole = sliced_wasserstein(a.repeat_interleave(num_b, 0), b.repeat_interleave(num_a, 0))
    assert sliced_wasserstein(a, b) == pytest.approx(whole, rel=1e-12)
    assert sliced_wasserstein(b, a) == pytest.approx(whole, rel=1e-12)


def test_no_less_than_the_first_moment_distance() -> None:
    a, b = draws(30, 1, 5), draws(40, 1, 6) ** 2
    assert sliced_wasserstein(a, b) >= wasserstein_distance_nd(a.numpy(), b.numpy())


def test_the_same_cloud_is_at_zero_and_the_error_is_its_spread() -> None:
    assert sliced_wasserstein(draws(50, 2), draws(50, 2)) == 0
    shift = torch.tensor([2.0, 0.0], dtype=torch.float64)
    pairs = [(draws(200, 2, 2 * i), draws(200, 2, 2 * i + 1) + shift) for i in range(30)]
    spread = float(torch.tensor([sliced_wasserstein(a, b) for a, b in pairs]).std())
    stated = [sliced_wasserstein_error(a, b) or math.nan for a, b in pairs[:5]]
    assert 0.5 * spread < sum(stated) / len(stated) < 2 * spread
    assert sliced_wasserstein_error(draws(10, 2), draws(50, 2)) is None


@pytest.mark.parametrize("b", [torch.zeros(3, 3), torch.zeros(0, 2), torch.full((3, 2), math.nan)])
def test_rejections(b: Tensor) -> None:
    with pytest.raises(UsageError):
        sliced_wasserstein(torch.zeros(3, 2), b)
