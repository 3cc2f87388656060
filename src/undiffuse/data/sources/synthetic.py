"""Points drawn from known distributions: small two-dimensional data sets on which a model is easy to inspect.

Each is a curve or a set of centres whose mean variance is exactly 1, plus Gaussian noise, so its density is a mixture
of Gaussians: a sum over centres, or an integral along a curve. The functions for curves and centres are public for
``studies.theory.ground_truth``, which computes that density.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import GaussianRingConfig, GaussiansConfig, RingsConfig, SourceConfig, SwissrollConfig
from undiffuse.data.dataset import ArrayDataset, Dataset

Points = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def load_swissroll(config: SwissrollConfig) -> Dataset:
    """Create the data set of a ``SwissrollConfig``; it has no labels."""
    points = swissroll(config.num_points, config.noise, config.seed)
    return _dataset("a two-dimensional Swiss roll", points, config)


def load_rings(config: RingsConfig) -> Dataset:
    """Create the data set of a ``RingsConfig``; labels number the circles from the inside."""
    points, labels = labelled_rings(config.num_points, config.num_rings, config.noise, config.seed)
    return _dataset("concentric circles", points, config, labels, config.num_rings)


def load_gaussians(config: GaussiansConfig) -> Dataset:
    """Create the data set of a ``GaussiansConfig``; labels number the Gaussians as ``grid_centres`` does."""
    points, labels = _gaussian_points(grid_centres(config.side), config.num_points, config.noise, config.seed)
    return _dataset("Gaussians on a square grid", points, config, labels, config.side**2)


def load_gaussian_ring(config: GaussianRingConfig) -> Dataset:
    """Create the data set of a ``GaussianRingConfig``; labels number the Gaussians as ``ring_centres`` does."""
    points, labels = _gaussian_points(ring_centres(config.num_modes), config.num_points, config.noise, config.seed)
    return _dataset("Gaussians on a circle", points, config, labels, config.num_modes)


def _dataset(
    what: str, points: Points, config: SourceConfig, labels: Labels | None = None, num_classes: int = 0
) -> Dataset:
    options = config.model_dump(exclude={"name", "validation_fraction"})
    provenance = {
        "source": f"computed: {what}",
        "licence": "none needed",
        "options": " ".join(f"{key}={value}" for key, value in options.items()),
    }
    names = [str(number) for number in range(num_classes)]
    return ArrayDataset(config.model_dump()["name"], points, labels, names, provenance)


def swissroll(num_points: int, noise: float = 0.02, seed: int = 0) -> Points:
    """Points (t cos t, t sin t) with t uniform in [3 pi/2, 9 pi/2], centred and scaled, plus Gaussian noise.

    The exact mean is subtracted, and the scale makes the mean of the two variances exactly 1 before the noise, so that
    the distribution does not depend on the number of points.

    Returns:
        (num_points, 2) float32, determined by the arguments.
    """
    rng = _rng(seed)
    return _add_noise(roll_curve(rng.random(num_points)), noise, rng)


def rings(num_points: int, num_rings: int = 3, noise: float = 0.05, seed: int = 0) -> Points:
    """Points on circles of radii proportional to 1 ... ``num_rings``, each equally likely, plus Gaussian noise.

    Returns:
        (num_points, 2) float32, determined by the arguments.
    """
    return labelled_rings(num_points, num_rings, noise, seed)[0]


def labelled_rings(num_points: int, num_rings: int, noise: float, seed: int) -> tuple[Points, Labels]:
    """The points of ``rings`` and the index (num_points,) of each one's circle, from 0 for the innermost."""
    rng = _rng(seed)
    ring = rng.integers(num_rings, size=num_points)
    angle = 2 * math.pi * rng.random(num_points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _add_noise(ring_radii(num_rings)[ring, None] * circle, noise, rng), ring


def gaussians(num_points: int, side: int = 5, noise: float = 0.05, seed: int = 0) -> Points:
    """Points of ``side`` x ``side`` equally likely Gaussians of standard deviation ``noise`` on a grid.

    Returns:
        (num_points, 2) float32, determined by the arguments.
    """
    return _gaussian_points(grid_centres(side), num_points, noise, seed)[0]


def gaussian_ring(num_points: int, num_modes: int = 8, noise: float = 0.05, seed: int = 0) -> Points:
    """Points of ``num_modes`` equally likely Gaussians of standard deviation ``noise`` on a circle.

    Returns:
        (num_points, 2) float32, determined by the arguments.
    """
    return _gaussian_points(ring_centres(num_modes), num_points, noise, seed)[0]


def _gaussian_points(centres: Array, num_points: int, noise: float, seed: int) -> tuple[Points, Labels]:
    """Points of equally likely Gaussians, and the index (num_points,) of each one's centre."""
    rng = _rng(seed)
    number = rng.integers(len(centres), size=num_points)
    return _add_noise(centres[number], noise, rng), number


def roll_curve(u: npt.ArrayLike) -> Array:
    """The Swiss roll's points (N, 2) at u (N,) in [0, 1], where u is uniform under the data."""
    t = math.pi * (1.5 + 3 * np.asarray(u, dtype=np.float64))
    mean = np.array([2, 2 / (3 * math.pi)])  # of t cos t and t sin t, by parts
    mean_square = 9.75 * math.pi**2  # of t
    scale = math.sqrt((mean_square - mean @ mean) / 2)
    roll: Array = (np.stack([t * np.cos(t), t * np.sin(t)], axis=1) - mean) / scale
    return roll


def ring_radii(num_rings: int) -> Array:
    """Radii (num_rings,) proportional to 1, 2, ...; a point of a random ring has mean variance E[r^2] / 2 = 1."""
    radii = np.arange(1, num_rings + 1, dtype=np.float64)
    scaled: Array = radii * math.sqrt(2 / (radii**2).mean())
    return scaled


def grid_centres(side: int) -> Array:
    """Centres (side^2, 2) of a regular square grid around 0; variance (side^2 - 1) / 12 steps^2 = 1 per coordinate."""
    along = (np.arange(side) - (side - 1) / 2) * math.sqrt(12 / (side**2 - 1))
    centres: Array = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    return centres


def ring_centres(num_modes: int) -> Array:
    """Centres (num_modes, 2) evenly spaced on a circle of radius sqrt(2), of mean variance 1; the first at angle 0."""
    angle = 2 * math.pi * np.arange(num_modes) / num_modes
    centres: Array = math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))


def _add_noise(points: npt.NDArray[Any], noise: float, rng: np.random.Generator) -> Points:
    return np.asarray(points + noise * rng.standard_normal(points.shape), dtype=np.float32)
