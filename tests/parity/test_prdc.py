"""Precision, recall, density and coverage against the package of the paper's authors, on the same arrays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from late import late
from undiffuse.metrics.coverage import coverage

prdc = late("prdc")


def draws(num: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 5, 10])
@pytest.mark.parametrize(
    ("num_real", "num_generated", "dim", "scale", "shift"),
    [(200, 200, 2, 1.0, 0.0), (300, 150, 8, 0.8, 0.2), (120, 260, 96, 1.2, 0.1), (150, 150, 3, 0.3, 0.0)],
)
def test_all_four(k: int, num_real: int, num_generated: int, dim: int, scale: float, shift: float) -> None:
    """Without ties (theirs are open balls, ours closed) every count is the same."""
    real, generated = draws(num_real, dim, 1), draws(num_generated, dim, 2, scale) + shift
    theirs = prdc().compute_prdc(real.numpy(), generated.numpy(), nearest_k=k)
    ours = coverage(real, generated, k)
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, rel=1e-12), name
