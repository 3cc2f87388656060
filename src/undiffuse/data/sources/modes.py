"""Known modes of the synthetic distributions, and the distances of points from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import GaussianRingConfig, GaussiansConfig, RingsConfig, SourceConfig
from undiffuse.data.sources.synthetic import grid_centres, ring_centres, ring_radii

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PointModes:
    """Equally likely modes of points in the plane.

    Attributes:
        num: number of modes K; modes are numbered like the labels of the data.
        std: standard deviation of the data around its mode, along each coordinate; may be 0.
        noun: what the modes are, in the plural.
        offset: distances (B, K) of points (B, 2) from the modes' centres or curves, in units of the data.
    """

    num: int
    std: float
    noun: str
    offset: Callable[[Values], Values]

    def distances(self, points: npt.ArrayLike) -> Values:
        """Distances (B, K) of points (B, 2) in standard deviations; ``std`` may not be 0."""
        return self.offset(np.asarray(points, dtype=np.float64)) / self.std


def known_modes(config: SourceConfig) -> PointModes | None:
    """Modes of a source of points; ``None`` if they are not known."""
    if isinstance(config, GaussiansConfig):
        return PointModes(config.side**2, config.noise, "Gaussians", _from_centres(grid_centres(config.side)))
    if isinstance(config, GaussianRingConfig):
        return PointModes(config.num_modes, config.noise, "Gaussians", _from_centres(ring_centres(config.num_modes)))
    if isinstance(config, RingsConfig):
        return PointModes(config.num_rings, config.noise, "circles", _from_circles(ring_radii(config.num_rings)))
    return None


def _from_centres(centres: Values) -> Callable[[Values], Values]:
    def offset(points: Values) -> Values:
        along: Values = points[:, None] - centres
        return np.asarray(np.hypot(along[..., 0], along[..., 1]))

    return offset


def _from_circles(radii: Values) -> Callable[[Values], Values]:
    def offset(points: Values) -> Values:
        return np.asarray(np.abs(np.hypot(points[:, 0], points[:, 1])[:, None] - radii))

    return offset
