"""Post-hoc averages against the integrals they stand for and against averages kept all along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.training.config import PosthocConfig
from undiffuse.training.posthoc import (
    WIDEST,
    PowerAverages,
    Profile,
    exponent,
    mixture,
    overlaps,
    reconstruct,
    save_snapshot,
    snapshots_of,
)

BATCH, STEPS, EVERY = 10, 2_000, 1_000
HELD = (0.05, 0.10)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0, 6.94, 16.97, 120.0])
def test_exponent_undoes_the_width_of_its_profile(gamma: float) -> None:
    tau = np.linspace(0, 1, 2_000_001)
    density = (gamma + 1) * tau**gamma
    mean = np.trapezoid(density * tau, tau)
    width = float(np.sqrt(np.trapezoid(density * (tau - mean) ** 2, tau)))
    assert exponent(width) == pytest.approx(gamma, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, WIDEST + 0.01])
def test_impossible_widths_are_rejected(width: float) -> None:
    with pytest.raises(UsageError, match=r"above 0 and at most 0.2887"):
        exponent(width)


def test_overlaps_are_the_integrals_of_products() -> None:
    profiles = [Profile(3.0, 2.5), Profile(7.0, 0.0), Profile(7.0, 6.0)]
    tau = np.linspace(0, 7, 700_001)
    curves = [np.where(tau <= t, (g + 1) * (tau / t) ** g / t, 0.0) for t, g in profiles]
    expected = [[np.trapezoid(a * b, tau) for b in curves] for a in curves]
    assert np.allclose(overlaps(profiles, profiles), expected, rtol=1e-4)


def test_a_held_profile_is_found_exactly_and_a_new_one_nearly() -> None:
    held = [Profile(1000.0 * k, exponent(width)) for k in range(1, 11) for width in HELD]
    shares, error = mixture(held, held[-1])
    # the remainder is a difference of numbers near 1, so its root cannot be known below 1e-8
    assert error < 1e-6 and shares[-1] == pytest.approx(1, abs=1e-6) and abs(shares[:-1]).max() < 1e-6
    shares, error = mixture(held, Profile(10_000, exponent(0.15)))
    assert error < 0.03 and shares.sum() == pytest.approx(1, abs=0.01)
    assert mixture(held[-2:], Profile(10_000, exponent(0.2)))[1] > 0.1, "two profiles cannot make all others"


class Weights(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())


def trajectory(kind: str) -> Tensor:
    """(STEPS + 1, 4): where the weights are before the first and after every step."""
    if kind == "line":
        return torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)[:, None].expand(-1, 4)
    steps = torch.randn(STEPS + 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return steps.cumsum(0) / STEPS**0.5


def averages_along(path: Tensor, widths: tuple[float, float], folder: Path | None = None) -> PowerAverages:
    module = Weights(path[0])
    averages = PowerAverages(module, PosthocConfig(sigma_rel=widths, snapshot_every_images=EVERY))
    for step, values in enumerate(path[1:], 1):
        with torch.no_grad():
            module.values.copy_(values)
        averages.update(module, (step - 1) * BATCH, BATCH)
        if folder is not None and step * BATCH % EVERY == 0:
            save_snapshot(folder, averages, step * BATCH)
    return averages


def test_an_average_is_the_integral_it_stands_for() -> None:
    averages = averages_along(trajectory("line"), HELD)
    for gamma, name in zip(averages.gammas, ("0.values", "1.values"), strict=True):
        expected = (gamma + 1) / (gamma + 2)  # mean of tau under the profile, at t = 1
        assert float(averages.tensors()[name][0]) == pytest.approx(expected, abs=1 / STEPS)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.10, 0.15, 0.25])
def test_reconstruction_is_what_an_average_kept_all_along_would_be(tmp_path: Path, width: float) -> None:
    path = trajectory("walk")
    averages_along(path, HELD, tmp_path)
    direct = averages_along(path, (width, width)).tensors()["0.values"]
    found = reconstruct(tmp_path, HELD, width)
    assert list(snapshots_of(tmp_path)) == list(range(EVERY, STEPS * BATCH + 1, EVERY)) and found.images == 20_000
    missed = (found.tensors["values"].double() - direct).abs().max() / (path[-1] - direct).abs().max()
    assert missed < (1e-5 if width in HELD else 0.02)
    assert found.error < 0.07  # of the profile; what is missed of it is its fine shape, which hardly moves the weights


def test_nothing_to_reconstruct_from_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no snapshots of averages; train with ema.posthoc") as caught:
        reconstruct(tmp_path, HELD, 0.1)
    assert "\n" not in str(caught.value)
