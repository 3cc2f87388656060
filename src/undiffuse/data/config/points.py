"""Configuration of the sources of synthetic points."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from undiffuse.data.config.base import SourceConfig


class SwissrollConfig(SourceConfig):
    """Points on a two-dimensional Swiss roll, centred, of unit mean variance.

    Args:
        num_points: number of points.
        noise: standard deviation of the Gaussian noise added to each coordinate (in units of the normalised data).
        seed: random seed of the points.
    """

    name: Literal["swissroll"] = "swissroll"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    noise: float = Field(default=0.02, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class RingsConfig(SourceConfig):
    """Points on concentric circles, of unit mean variance; the class of a point is its circle.

    Args:
        num_points: number of points.
        num_rings: number of circles, of radii 1, 2, ... before scaling; each has the same fraction of the points.
        noise: standard deviation of the Gaussian noise added to each coordinate (in units of the normalised data).
        seed: random seed of the points.
    """

    name: Literal["rings"] = "rings"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    num_rings: int = Field(default=3, ge=1, le=100)
    noise: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class GaussiansConfig(SourceConfig):
    """A mixture of equal Gaussians on a square grid, 5x5 by default, of unit mean variance; the class is the Gaussian.

    Args:
        num_points: number of points.
        side: Gaussians along each side of the grid.
        noise: standard deviation of each Gaussian (in units of the normalised data).
        seed: random seed of the points.
    """

    name: Literal["gaussians"] = "gaussians"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    side: int = Field(default=5, ge=2, le=100)
    noise: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class GaussianRingConfig(SourceConfig):
    """A mixture of equal Gaussians on one circle, 8 by default, of unit mean variance; the class is the Gaussian.

    Args:
        num_points: number of points.
        num_modes: Gaussians, evenly spaced over the circle; the first is on the right.
        noise: standard deviation of each Gaussian (in units of the normalised data). The toy data of Metz et al. 2016
            have 0.02 on a circle of radius 2, here 0.014.
        seed: random seed of the points.
    """

    name: Literal["gaussian_ring"] = "gaussian_ring"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    num_modes: int = Field(default=8, ge=2, le=1000)
    noise: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)
