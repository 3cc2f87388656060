"""The exact distribution of the synthetic sources, and its scores and posterior means.

Each source draws centres and adds Gaussian noise of one standard deviation, so its density is a mixture

    p(x) = sum_k w_k N(x; mu_k, noise^2 I)

exact for ``gaussians`` and ``gaussian_ring``. For a curve the sum approximates an integral over its parameter u,

    p(x) = int_0^1 N(x; mu(u), noise^2 I) du,

by the midpoint rule (on a circle equivalent to the trapezoidal rule). Its error falls like exp(-2 pi^2 noise^2 / h^2)
with the spacing h of the centres, which is 1e-28 for h <= 0.55 noise; the remaining error is O(h^2) at the two ends of
an open curve, under 0.5% of the density there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from undiffuse.config import ComponentConfig
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.data.sources.synthetic import grid_centres, ring_centres, ring_radii, roll_curve
from undiffuse.errors import UsageError
from undiffuse.registry import lookup

#: Spacing of the centres along a curve, as a fraction of the noise.
SPACING = 0.55
#: Minimum and maximum number of centres of a curve.
FEWEST, MOST = 2_000, 20_000
_CHUNK = 4_000_000  # entries of a (B, K) matrix per chunk


class EvenMixture(GaussianMixture):
    """A mixture of spherical Gaussians of one variance, an order of magnitude faster for many centres.

    All centres share the variance alpha^2 v + sigma^2 at a time t, so responsibilities are a softmax of one matrix
    product, and E[x_0 | x_t] is the mean centre under the responsibilities, moved towards x_t.
    """

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        super().__init__(means, torch.full((len(means),), float(std) ** 2, dtype=torch.float64), weights)
        self.var = float(std) ** 2

    def log_prob(self, x: Tensor, process: Process | None = None, t: Tensor | None = None) -> Tensor:
        one = torch.ones(len(x), dtype=torch.float64)
        alpha, sigma = (one, 0 * one) if process is None or t is None else (process.alpha(t), process.sigma(t))
        return self._by_chunks(self._log_prob, x, alpha, sigma)

    def score(self, x: Tensor, process: Process, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        mean = self._by_chunks(self._mean_centre, x, alpha, sigma)
        return (alpha[:, None] * mean - x.double()) / (alpha**2 * self.var + sigma**2)[:, None]

    def posterior_mean(self, x_t: Tensor, process: Process, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        mean = self._by_chunks(self._mean_centre, x_t, alpha, sigma)
        gain = alpha * self.var / (alpha**2 * self.var + sigma**2)
        return mean + gain[:, None] * (x_t.double() - alpha[:, None] * mean)

    def _logits(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log w_k - |x - alpha mu_k|^2 / (2 var) without the terms common to all centres, ``(B, K)``."""
        total = (alpha**2 * self.var + sigma**2)[:, None]
        inner = x @ self.means.T - alpha[:, None] * (self.means**2).sum(1) / 2
        return self.weights.log() + alpha[:, None] / total * inner

    def _mean_centre(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.softmax(self._logits(x, alpha, sigma), dim=1) @ self.means

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        total = alpha**2 * self.var + sigma**2
        shared = -0.5 * (x**2).sum(1) / total - 0.5 * x.shape[1] * torch.log(2 * math.pi * total)
        return torch.logsumexp(self._logits(x, alpha, sigma), dim=1) + shared

    def _by_chunks(self, function: Callable[..., Tensor], x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        rows = max(1, _CHUNK // len(self.means))
        x, alpha, sigma = x.double().cpu(), alpha.cpu().expand(len(x)), sigma.cpu().expand(len(x))
        parts = [function(*(value[i : i + rows] for value in (x, alpha, sigma))) for i in range(0, len(x), rows)]
        return torch.cat(parts) if parts else function(x, alpha, sigma)


def truth_of(config: ComponentConfig) -> EvenMixture:
    """The distribution of a synthetic source.

    Args:
        config: of a data source in ``TRUTHS``.
    Raises:
        UsageError: if the density of the source is not known, or its noise is 0, so that it has none.
    """
    if config.name not in TRUTHS:
        raise UsageError(
            f"the density of data source {config.name!r} is not known; known are {', '.join(sorted(TRUTHS))}"
        )
    build: Callable[[Any], EvenMixture] = lookup(TRUTHS, config.name, "known density")
    noise = getattr(config, "noise", 0.0)
    if not noise > 0:
        raise UsageError(f"data source {config.name!r} with noise=0 has no density; train with noise above 0")
    return build(config)


def swissroll_truth(config: Any) -> EvenMixture:
    """The Swiss roll: centres at the midpoints of equal intervals of u."""
    longest = float(torch.from_numpy(roll_curve([0.999, 1.0])).diff(dim=0).norm()) / 0.001  # |d mu / du| at its end
    count = _count_for(longest, config.noise)
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return EvenMixture(torch.from_numpy(roll_curve(middles.numpy())), config.noise)


def rings_truth(config: Any) -> EvenMixture:
    """Circles: evenly spaced centres, their number by the circumference, with equal weight per circle."""
    means, weights = [], []
    for radius in ring_radii(config.num_rings).tolist():
        count = _count_for(2 * math.pi * radius, config.noise, fewest=FEWEST // config.num_rings + 1)
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        means.append(radius * torch.stack([angle.cos(), angle.sin()], dim=1))
        weights.append(torch.full((count,), 1 / count, dtype=torch.float64))
    return EvenMixture(torch.cat(means), config.noise, torch.cat(weights))


def gaussians_truth(config: Any) -> EvenMixture:
    """The grid of Gaussians."""
    return EvenMixture(torch.from_numpy(grid_centres(config.side)), config.noise)


def gaussian_ring_truth(config: Any) -> EvenMixture:
    """The circle of Gaussians."""
    return EvenMixture(torch.from_numpy(ring_centres(config.num_modes)), config.noise)


def _count_for(length: float, noise: float, fewest: int = FEWEST) -> int:
    count = math.ceil(length / (SPACING * noise))
    if count > MOST:
        raise UsageError(
            f"data with noise={noise} is too thin for its density to be computed: it would need {count} centres, the "
            f"limit is {MOST}; train with noise of at least {length / (SPACING * MOST):.2g}"
        )
    return max(count, fewest)


TRUTHS: dict[str, Callable[[Any], EvenMixture]] = {
    "swissroll": swissroll_truth,
    "rings": rings_truth,
    "gaussians": gaussians_truth,
    "gaussian_ring": gaussian_ring_truth,
}
