"""Synthetic points: functions of their arguments alone, centred, of unit mean variance before the noise."""

from __future__ import annotations

import numpy as np
import pytest

from undiffuse.config import validate
from undiffuse.data import GaussiansConfig, RingsConfig, load_dataset, source_config_for
from undiffuse.data.sources.synthetic import (
    gaussian_ring,
    gaussians,
    grid_centres,
    ring_radii,
    rings,
    roll_curve,
    swissroll,
)
from undiffuse.errors import UsageError

SOURCES = {"swissroll": swissroll, "rings": rings, "gaussians": gaussians, "gaussian_ring": gaussian_ring}
CLASSES = {"swissroll": 0, "rings": 3, "gaussians": 25, "gaussian_ring": 8}


@pytest.mark.parametrize("name", SOURCES)
def test_points_are_a_function_of_the_arguments(name: str) -> None:
    draw = SOURCES[name]
    assert np.array_equal(draw(100, seed=3), draw(100, seed=3))
    assert not np.array_equal(draw(100, seed=3), draw(100, seed=4))
    assert draw(7).shape == (7, 2) and draw(7).dtype == np.float32


@pytest.mark.parametrize("name", SOURCES)
def test_mean_variance_is_one_plus_the_noise(name: str) -> None:
    points = SOURCES[name](200_000, noise=0.3, seed=1).astype(np.float64)
    assert np.abs(points.mean(axis=0)).max() < 0.012
    assert abs(points.var(axis=0).mean() - 1.09) < 0.01


@pytest.mark.parametrize("num_rings", [1, 2, 5])
def test_rings_lie_on_their_radii_in_equal_shares(num_rings: int) -> None:
    points = rings(5_000, num_rings, noise=0.0)
    radii = ring_radii(num_rings)
    assert np.allclose(radii / radii[0], np.arange(1, num_rings + 1))
    nearest = np.abs(np.linalg.norm(points, axis=1)[:, None] - radii)
    assert nearest.min(axis=1).max() < 1e-6
    shares = np.bincount(nearest.argmin(axis=1), minlength=num_rings) / 5_000
    assert np.abs(shares - 1 / num_rings).max() < 0.04


@pytest.mark.parametrize("side", [2, 3, 5])
def test_centres_form_an_even_grid_of_unit_variance(side: int) -> None:
    centres = grid_centres(side)
    assert centres.shape == (side**2, 2) and len(np.unique(centres.round(9), axis=0)) == side**2
    assert np.allclose(centres.mean(axis=0), 0) and np.allclose(centres.var(axis=0), 1)
    assert np.allclose(np.diff(np.unique(centres[:, 0].round(9))), np.sqrt(12 / (side**2 - 1)))
    found = np.unique(gaussians(4_000, side, noise=0.0), axis=0)
    assert len(found) == side**2


def test_the_roll_starts_inside_and_winds_one_and_a_half_times() -> None:
    curve = roll_curve(np.linspace(0, 1, 1001))
    angles = np.unwrap(np.arctan2(*(curve - roll_curve([0, 1]).mean(0) * 0 + _offset()).T[::-1]))
    assert abs(abs(angles[-1] - angles[0]) - 3 * np.pi) < 1e-6


def _offset() -> np.ndarray:
    """What the roll was centred by, in its own units."""
    mean = np.array([2, 2 / (3 * np.pi)])
    return mean / np.sqrt((9.75 * np.pi**2 - mean @ mean) / 2)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_its_name_options_and_its_modes_as_classes(name: str) -> None:
    config = source_config_for(name)
    dataset = load_dataset(config)
    assert dataset.name == name and dataset.num_classes == CLASSES[name] and dataset.shape == (2,)
    assert (dataset.labels is None) == (CLASSES[name] == 0)
    assert f"noise={config.noise}" in dataset.provenance["options"]  # type: ignore[attr-defined]
    assert "validation_fraction" not in dataset.provenance["options"]


@pytest.mark.parametrize("options", [{"side": 1}, {"side": 0}, {"noise": -1}, {"num_points": 0}, {"sides": 3}])
def test_senseless_gaussians_are_rejected(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        validate(GaussiansConfig, {"name": "gaussians", **options})


def test_no_rings_at_all_are_rejected() -> None:
    with pytest.raises(UsageError, match="num_rings"):
        validate(RingsConfig, {"name": "rings", "num_rings": 0})
