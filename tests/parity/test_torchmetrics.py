"""Fréchet, kernel distance and inception score against torchmetrics on the same arrays, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from late import late
from undiffuse.metrics import GaussianStatistics, InceptionScoreAccumulator, frechet_distance, kernel_distance

fid = late("torchmetrics.image.fid")
kid = late("torchmetrics.image.kid")
inception = late("torchmetrics.image.inception")

pytestmark = pytest.mark.filterwarnings("ignore")


class AsTheyAre(nn.Module):
    """Stands in for the network: what torchmetrics is given are the features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


def draws(num: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    return torch.randn(num, dim, dtype=torch.float64, generator=generator) @ mixing + 0.3 * seed


PAIRS = [(300, 300, 8), (500, 200, 24), (150, 400, 96)]


@pytest.mark.parametrize(("num_a", "num_b", "dim"), PAIRS)
def test_frechet(num_a: int, num_b: int, dim: int) -> None:
    a, b = draws(num_a, dim, 1), draws(num_b, dim, 2)
    theirs = fid().FrechetInceptionDistance(feature=AsTheyAre(dim), input_img_size=(1, 1, dim)).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = frechet_distance(GaussianStatistics.of(a), GaussianStatistics.of(b))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(200, 8), (300, 24), (250, 96)])
@pytest.mark.parametrize(("degree", "gamma", "coef0"), [(3, None, 1.0), (2, 0.05, 0.5)])
def test_kernel_distance(num: int, dim: int, degree: int, gamma: float | None, coef0: float) -> None:
    """One subset of all rows is the whole estimate (theirs wants as many on both sides)."""
    a, b = draws(num, dim, 1), draws(num, dim, 2)
    theirs = (
        kid()
        .KernelInceptionDistance(
            feature=AsTheyAre(dim), subsets=1, subset_size=num, degree=degree, gamma=gamma, coef=coef0
        )
        .set_dtype(torch.float64)
    )
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = kernel_distance(a, b, degree, gamma, coef0).value
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


@pytest.mark.parametrize(("num", "num_classes", "sharpness"), [(100, 10, 3.0), (777, 10, 20.0), (300, 1000, 1.0)])
def test_inception_score(num: int, num_classes: int, sharpness: float) -> None:
    logits = sharpness * torch.randn(
        num, num_classes, dtype=torch.float64, generator=torch.Generator().manual_seed(num)
    )
    theirs = inception().InceptionScore(feature=AsTheyAre(num_classes), splits=1).set_dtype(torch.float64)
    theirs.update(logits)
    assert InceptionScoreAccumulator.of(logits.softmax(1)).score == pytest.approx(float(theirs.compute()[0]), rel=1e-6)
