"""The context of a study of points in the plane: a denoiser, the exact distribution of its data, common coordinates.

Every process is shown in the same coordinates. With the noise ratio r = sigma / alpha,

    x~ = x_t / sqrt(alpha^2 + sigma^2) = (x_0 + r eps) / sqrt(1 + r^2)

has unit variance at every r and is the same under VP, VE, sub-VP and flow processes; and

    sigma grad log p_t(x_t) = -E[eps | x_t]

is the score in units in which its error has equal weight at all noise levels (the loss with weight sigma^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.process import Process
from undiffuse.studies.theory.ground_truth import EvenMixture

#: Half the side of the square that figures show, in units of x~.
LIMIT = 2.6
#: The noise ratios of the figures, if within the range of training.
RATIOS = (2.0, 0.7, 0.25, 0.06)


@dataclass(frozen=True)
class TheoryContext:
    """A denoiser and the exact distribution of its data.

    Attributes:
        name: of the model, or of the exact data.
        denoiser: denoiser of points in the plane.
        truth: the exact distribution of its data.
        exact: whether the denoiser is exact, so that comparisons are trivial.
        sampler, num_steps, grid: default sampling options.
        num: number of points per sample set.
        seed: base seed of all draws.
    """

    name: str
    denoiser: Denoiser
    truth: EvenMixture
    exact: bool
    sampler: str
    num_steps: int
    grid: str
    num: int = 1000
    seed: int = 0

    @property
    def process(self) -> Process:
        """The denoiser's forward process."""
        return self.denoiser.process

    def generator(self, purpose: int = 0) -> torch.Generator:
        """A separate generator for each purpose."""
        return torch.Generator().manual_seed((1_000_003 * (self.seed + 1) + purpose) % 2**63)

    def ratio_range(self) -> tuple[float, float]:
        """(smallest, largest) noise ratio that the denoiser supports, within [0.01, 50]."""
        ends = self.process.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        low, high = max(self.denoiser.log_snr_range[0], ends[0]), min(self.denoiser.log_snr_range[1], ends[1])
        return max(math.exp(-high / 2), 0.01), min(math.exp(-low / 2), 50.0)

    def ratios(self, count: int) -> list[float]:
        """``count`` noise ratios, evenly spaced in the logarithm, descending from 10 at most."""
        low, high = self.ratio_range()
        high = min(high, 10.0)
        return [high * (low / high) ** (i / (count - 1)) for i in range(count)]

    def shown_ratios(self) -> list[float]:
        """``RATIOS``, clipped to the range of the denoiser."""
        low, high = self.ratio_range()
        return sorted({min(max(ratio, low), high) for ratio in RATIOS}, reverse=True)

    def at_ratio(self, ratio: float, count: int) -> Tensor:
        """The time with sigma / alpha = ratio, ``(count,)`` float64."""
        log_snr = torch.full((count,), -2 * math.log(ratio), dtype=torch.float64)
        return self.process.time_of_log_snr(log_snr)

    def spread(self, t: Tensor) -> Tensor:
        """sqrt(alpha^2 + sigma^2) as a column, ``(B, 1)``: the factor from x~ to x_t."""
        return self.process.norm(t)[:, None]


@torch.no_grad()
def scaled_scores(context: TheoryContext, scaled: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """(model, exact) sigma grad log p_t = -eps-hat at the points ``scaled`` = x~ (B, 2), each ``(B, 2)`` float64."""
    t = context.at_ratio(ratio, len(scaled))
    x_t = scaled.double() * context.spread(t)
    true = -eps_of(context.process, x_t, context.truth.posterior_mean(x_t, context.process, t), t)
    if context.exact:
        return true, true
    return -eps_of(context.process, x_t, denoised(context.denoiser, x_t, t), t), true


@torch.no_grad()
def denoised(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """x_0-hat as float64 on the CPU, computed in float32 on the network's device."""
    device = device_of(denoiser)
    result: Tensor = denoiser(x_t.to(device=device, dtype=torch.float32), t.to(device)).x_0
    return result.double().cpu()


def device_of(denoiser: Denoiser) -> torch.device:
    """Device of the network; the CPU for a denoiser without weights."""
    return next((value.device for value in denoiser.parameters()), torch.device("cpu"))


def plane(side: int, limit: float = LIMIT) -> Tensor:
    """A grid of ``side`` x ``side`` points (side^2, 2) over [-limit, limit]^2, rows from bottom to top."""
    along = torch.linspace(-limit, limit, side, dtype=torch.float64)
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def scaled_density(context: TheoryContext, scaled: Tensor, ratio: float) -> Tensor:
    """log density of x~ (B,) in nats: log p_t(x_t) + 2 log sqrt(alpha^2 + sigma^2)."""
    t = context.at_ratio(ratio, len(scaled))
    spread = context.spread(t)
    return context.truth.log_prob(scaled.double() * spread, context.process, t) + 2 * torch.log(spread[:, 0])


def noisy_points(context: TheoryContext, ratio: float, count: int, purpose: int = 1) -> tuple[Tensor, Tensor]:
    """``count`` draws of (x~, eps) at a noise ratio, from diffused exact data, each ``(count, 2)`` float64."""
    generator = context.generator(purpose)
    x_0 = context.truth.sample(count, generator)
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=generator)
    return (x_0 + ratio * eps) / math.sqrt(1 + ratio**2), eps
