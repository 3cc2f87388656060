"""Exact mean and variance of what a sampler returns on Gaussian data, without a single random number.

On Gaussian data every method here is affine in where it starts and in its draws. So a batch whose rows each carry one
unit disturbance gives the whole response: row 0 the mean, row 1 the start, row 2 + k the k-th draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.samplers import SAMPLERS
from undiffuse.samplers.base import Sampler, sample
from undiffuse.samplers.noise import NoiseSource

#: How each row of the registry is exercised; a row that is not named here is exercised with its defaults.
VARIANTS = {
    "ancestral": ["ancestral:variance=beta", "ancestral:variance=beta_tilde"],
    "ddim": ["ddim:eta=0", "ddim:eta=0.5", "ddim:eta=1"],
    "pc": ["pc", "pc:predictor=dpmpp_2m,corrections=2,r=0.1", "pc:predictor=ddim:eta=0.5"],
    "edm": ["edm:s_churn=0", "edm:s_churn=3"],
    "unipc": ["unipc", "unipc:order=3,lower_order_final=0", "unipc:variant=bh1"],
}

#: Every sampler of the registry, with the options worth a test.
SPECS = [spec for name in SAMPLERS for spec in VARIANTS.get(name, [name])]


@dataclass
class UnitNoise(NoiseSource):
    """Zero everywhere, but for draw k in row 2 + k, which is 1."""

    drawn: list[int] = field(default_factory=lambda: [0])

    def at(self, index: Tensor) -> NoiseSource:
        return self  # draws are counted through all steps

    def prior(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def normal(self, like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[2 + self.drawn[0] : 3 + self.drawn[0]] = 1
        self.drawn[0] += 1
        return out

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        return self.normal(like)  # steps do not overlap, so their increments are independent draws


class PathsOfGaussian(Denoiser):
    """The consistency function of one Gaussian N(mu, v), in closed form.

    Along the probability-flow ODE (x_t - alpha mu) / sqrt(alpha^2 v + sigma^2) never changes; at the clean end it is
    (x_0 - mu) / sqrt(v).
    """

    def __init__(self, data: GaussianMixture, process: Process) -> None:
        super().__init__()
        self.data, self.process = data, process

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        return Denoised(self.follow(x_t, t, torch.full_like(t, -1)))

    def follow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s on the path of x_t; x_0 of the data, without the noise that may be left at t = 0, for s < 0."""
        at_data = s < 0
        alpha = torch.where(at_data, 1.0, self.process.alpha(s.clamp(min=0)))[:, None]
        sigma = torch.where(at_data, 0.0, self.process.sigma(s.clamp(min=0)))[:, None]
        alpha_t, sigma_t = self.process.alpha(t)[:, None], self.process.sigma(t)[:, None]
        std, std_t = ((a**2 * self.data.variance + b**2).sqrt() for a, b in ((alpha, sigma), (alpha_t, sigma_t)))
        return alpha * self.data.mean + (x_t - alpha_t * self.data.mean) * std / std_t


def marginal(data: GaussianMixture, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_t in closed form, each ``(D,)``."""
    alpha, sigma = process.alpha(t.reshape(1)), process.sigma(t.reshape(1))
    return alpha * data.mean, (alpha**2 * data.variance + sigma**2).sqrt()


def output_moments(
    denoiser: Denoiser, sampler: Sampler, times: Tensor, mean: Tensor, std: Tensor, finish: bool = False
) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of the sampler's output when it starts from N(mean, std^2), each ``(D,)``."""

    def run(num_draws: int) -> tuple[Tensor, UnitNoise]:
        x_start = mean.expand(2 + num_draws, -1).clone()
        x_start[1] += std
        noise = UnitNoise()
        result = sample(
            denoiser,
            sampler,
            times,
            shape=tuple(mean.shape),
            seeds=range(len(x_start)),
            noise=noise,
            x_start=x_start,
            finish=finish,
            dtype=torch.float64,
        )
        return result.x, noise

    most = (len(times) - 1) * sampler.max_nfe_per_step if sampler.stochastic else 0  # one draw an evaluation, or fewer
    rows, noise = run(most)
    if noise.drawn[0] > most:  # how often it draws does not depend on the rows
        rows, _ = run(noise.drawn[0])
    return rows[0], (rows[1:] - rows[0]).square().sum(0).sqrt()
