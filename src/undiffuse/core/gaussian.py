"""Gaussian mixtures: data with marginals, score and posterior mean in closed form.

A mixture of K Gaussians with diagonal covariances (K = 1: a Gaussian; variance 0: a finite set of points) remains a
mixture under any forward process, so its denoiser E[x_0 | x_t] is exact. Samplers, bounds and likelihoods are tested
against it; it also serves for experiments: ``sample(GaussianMixture.ring(8).denoiser(FlowProcess()), ...)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.process import Process
from undiffuse.errors import UsageError


class GaussianMixture:
    """A mixture of diagonal Gaussians in D dimensions, in float64.

    Args:
        means: (K, D).
        variances: (K, D), or (K,) for spherical components; 0 for a point mass.
        weights: (K,) non-negative, normalised to sum 1; equal by default.
    Raises:
        UsageError: shapes that do not match, a negative variance or weight.
    Example:
        >>> mixture = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.1]))
        >>> float(mixture.mean)
        0.0
    """

    def __init__(self, means: Tensor, variances: Tensor, weights: Tensor | None = None) -> None:
        means, variances = means.double(), variances.double()
        if means.ndim != 2:
            raise UsageError(f"means must have shape (K, D), got {tuple(means.shape)}")
        variances = variances[:, None].expand_as(means) if variances.shape == means.shape[:1] else variances
        weights = torch.ones(len(means), dtype=torch.float64) if weights is None else weights.double()
        if variances.shape != means.shape or weights.shape != means.shape[:1]:
            raise UsageError(
                f"variances must be (K,) or (K, D) and weights (K,) for means {tuple(means.shape)}, "
                f"got {tuple(variances.shape)} and {tuple(weights.shape)}"
            )
        if bool((variances < 0).any()) or bool((weights < 0).any()) or not float(weights.sum()) > 0:
            raise UsageError("variances and weights must not be negative, and some weight must be positive")
        self.means, self.variances, self.weights = means, variances, weights / weights.sum()

    @classmethod
    def gaussian(cls, mean: Tensor, variance: Tensor) -> GaussianMixture:
        """A single Gaussian with diagonal covariance.

        Args:
            mean: (D,).
            variance: (D,), at least 0.
        """
        return cls(mean[None], variance[None])

    @classmethod
    def ring(cls, num_modes: int = 8, radius: float = 1.0, std: float = 0.05) -> GaussianMixture:
        """Equal Gaussians evenly spaced on a circle in the plane.

        Args:
            num_modes: K, the number of Gaussians.
            radius: radius of the circle.
            std: standard deviation of each Gaussian.
        """
        angle = torch.arange(num_modes, dtype=torch.float64) * (2 * math.pi / num_modes)
        means = radius * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
        return cls(means, torch.full((num_modes,), std**2, dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        """E[x_0], ``(D,)``."""
        return self.weights @ self.means

    @property
    def variance(self) -> Tensor:
        """Var[x_0] of each dimension, ``(D,)``."""
        return self.weights @ (self.variances + self.means**2) - self.mean**2

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws from the mixture.

        Args:
            num: N, the number of draws.
            generator: random generator; torch's global generator by default.
        Returns:
            (N, D) float64.
        """
        component = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        noise = torch.randn(num, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[component] + self.variances[component].sqrt() * noise

    def _joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; alpha mu_k, alpha^2 v_k + sigma^2) as (B, K), with deviations and variances (B, K, D)."""
        alpha, sigma = alpha.to(x.device).reshape(-1, 1, 1), sigma.to(x.device).reshape(-1, 1, 1)
        means, variances, weights = (value.to(x.device) for value in (self.means, self.variances, self.weights))
        total = alpha**2 * variances + sigma**2
        deviation = x[:, None] - alpha * means
        log_density = -0.5 * (deviation**2 / total + torch.log(2 * math.pi * total)).sum(-1)
        return torch.log(weights) + log_density, deviation, total

    def log_prob(self, x: Tensor, process: Process | None = None, t: Tensor | None = None) -> Tensor:
        """log p_t(x) in nats; the density of the data if no process is given.

        Args:
            x: (B, D) points.
            process: the forward process; None for the data.
            t: (B,) times in [0, 1]; None for the data.
        Returns:
            (B,) float64.
        """
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        alpha, sigma = (one, 0 * one) if process is None or t is None else (process.alpha(t), process.sigma(t))
        return torch.logsumexp(self._joint(x.double(), alpha, sigma)[0], dim=1)

    def score(self, x: Tensor, process: Process, t: Tensor) -> Tensor:
        """grad log p_t(x), the exact score.

        Args:
            x: (B, D) points.
            process: the forward process.
            t: (B,) times in [0, 1].
        Returns:
            (B, D) float64.
        """
        log_joint, deviation, total = self._joint(x.double(), process.alpha(t), process.sigma(t))
        responsibility = torch.softmax(log_joint, dim=1)[..., None]
        return -(responsibility * deviation / total).sum(1)

    def posterior_mean(self, x_t: Tensor, process: Process, t: Tensor) -> Tensor:
        """E[x_0 | x_t], the output of the optimal denoiser.

        Args:
            x_t: (B, D) noisy points.
            process: the forward process.
            t: (B,) times in [0, 1].
        Returns:
            (B, D) float64.
        """
        alpha = process.alpha(t)
        log_joint, deviation, total = self._joint(x_t.double(), alpha, process.sigma(t))
        responsibility = torch.softmax(log_joint, dim=1)[..., None]
        gain = alpha.to(x_t.device).reshape(-1, 1, 1) * self.variances.to(x_t.device) / total
        return (responsibility * (self.means.to(x_t.device) + gain * deviation)).sum(1)

    def denoiser(self, process: Process) -> MixtureDenoiser:
        """The exact denoiser of this data under ``process``."""
        return MixtureDenoiser(self, process)


class MixtureDenoiser(Denoiser):
    """E[x_0 | x_t] of a Gaussian mixture; accepts any (B, ...) whose samples have D elements.

    Args:
        mixture: the distribution of the data.
        process: the forward process.
    """

    def __init__(self, mixture: GaussianMixture, process: Process) -> None:
        super().__init__()
        self.mixture, self.process = mixture, process

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        x_0 = self.mixture.posterior_mean(x_t.flatten(1), self.process, t)
        return Denoised(x_0.to(x_t.dtype).reshape(x_t.shape))
