"""Points drawn from known distributions: small sets on which a model can be looked at in the plane."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import SwissrollConfig
from undiffuse.data.source import ArrayDataset, Dataset


def load_swissroll(config: SwissrollConfig) -> Dataset:
    """The data set of a ``SwissrollConfig``; it has no labels."""
    provenance = {
        "source": "computed: a two-dimensional Swiss roll",
        "licence": "none needed",
        "options": f"num_points={config.num_points} noise={config.noise} seed={config.seed}",
    }
    return ArrayDataset("swissroll", swissroll(config.num_points, config.noise, config.seed), provenance=provenance)


def swissroll(num_points: int, noise: float = 0.02, seed: int = 0) -> npt.NDArray[np.float32]:
    """Points (t cos t, t sin t) with t uniform in [3 pi/2, 9 pi/2], centred and scaled, plus Gaussian noise.

    The exact mean is taken off, and the scale makes the mean of the two variances exactly 1 before the noise, so that
    the distribution does not depend on how many points are drawn.

    Returns:
        (num_points, 2) float32, a function of the arguments alone.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
    t = math.pi * (1.5 + 3 * rng.random(num_points))
    mean = np.array([2, 2 / (3 * math.pi)])  # of t cos t and t sin t, by parts
    mean_square = 9.75 * math.pi**2  # of t
    scale = math.sqrt((mean_square - mean @ mean) / 2)
    roll = (np.stack([t * np.cos(t), t * np.sin(t)], axis=1) - mean) / scale
    return np.asarray(roll + noise * rng.standard_normal((num_points, 2)), dtype=np.float32)
