"""Solvers of the reverse-time SDE against the papers' printed steps, the process's own f and g, and a shared path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sparse_product import sparse_product
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, FlowProcess
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Steps, sample
from undiffuse.samplers.noise import NoiseSource, SeededNoise

DATA = GaussianMixture.gaussian(torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double())
X = torch.tensor([[0.4, -1.1], [2.0, 0.3]], dtype=torch.float64)
Z = torch.tensor([[0.7, -0.2], [-1.3, 0.9]], dtype=torch.float64)


@dataclass
class GivenNoise(NoiseSource):
    """Every draw is z, fresh or Brownian."""

    z: Tensor

    def normal(self, like: Tensor) -> Tensor:
        return self.z

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        return self.z


class Level(NamedTuple):
    """sigma_t^2, sigma_s^2 and the score at (X, t)."""

    sigma2_t: float
    sigma2_s: float
    score: Tensor


def one_step(name: str, process: Process, t: float, s: float, z: Tensor = Z) -> Tensor:
    times = torch.tensor([[t, t], [s, s]], dtype=torch.float64)
    number = torch.zeros(2, dtype=torch.int64)
    steps = Steps(times[0], times[1], number, number + 9, number.bool())
    return make_sampler(name).step(DATA.denoiser(process), X, steps, (), GivenNoise(z))[0]


def level(process: Process, t: float, s: float) -> Level:
    sigma_t, sigma_s = process.sigma(torch.tensor([t, s], dtype=torch.float64)).tolist()
    return Level(sigma_t**2, sigma_s**2, DATA.score(X, process, torch.tensor([t, t], dtype=torch.float64)))


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.85), (0.5, 0.2), (1.0, 0.0)])
def test_ancestral_on_ve_is_songs_ancestral_step(t: float, s: float) -> None:
    process = PROCESSES["ve"]()
    sigma2_t, sigma2_s, score = level(process, t, s)  # Song et al. 2021, eq. 47
    std = math.sqrt(sigma2_s * (sigma2_t - sigma2_s) / sigma2_t)
    expected = X + (sigma2_t - sigma2_s) * score + std * Z
    assert torch.allclose(one_step("ancestral", process, t, s), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.85), (0.5, 0.2)])
def test_reverse_diffusion_on_ve_is_songs(t: float, s: float) -> None:
    process = PROCESSES["ve"]()
    sigma2_t, sigma2_s, score = level(process, t, s)
    expected = X + (sigma2_t - sigma2_s) * score + math.sqrt(sigma2_t - sigma2_s) * Z
    assert torch.allclose(one_step("reverse_diffusion", process, t, s), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("knot", [1, 40, 100])
def test_reverse_diffusion_on_a_chain_is_songs(knot: int) -> None:
    process = DiscreteVP.linear(100)
    beta = float(process.betas[knot - 1])
    t, s = knot / 100, (knot - 1) / 100
    score = level(process, t, s).score
    expected = (2 - math.sqrt(1 - beta)) * X + beta * score + math.sqrt(beta) * Z
    if knot > 1:
        assert torch.allclose(one_step("reverse_diffusion", process, t, s), expected, rtol=1e-9, atol=1e-9)
    else:  # sigma = 0 at the end: x_0-hat, without noise
        x_0 = DATA.denoiser(process)(X, torch.tensor([t, t], dtype=torch.float64)).x_0
        assert torch.equal(one_step("reverse_diffusion", process, t, s), x_0)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral"])
@pytest.mark.parametrize("process_name", [name for name, make in PROCESSES.items() if make().num_steps is None])
def test_a_short_step_is_the_reverse_sde_with_the_processes_own_f_and_g(name: str, process_name: str) -> None:
    process, t = PROCESSES[process_name](), torch.tensor([0.6, 0.6], dtype=torch.float64)
    slope = process.drift(X, t) - process.diffusion2(t)[:, None] * DATA.score(X, process, t)

    def gap(step: float) -> tuple[float, float]:
        mean = one_step(name, process, 0.6, 0.6 - step, 0 * Z)
        noise = one_step(name, process, 0.6, 0.6 - step) - mean
        expected = Z * math.sqrt(float(process.diffusion2(t)[0]) * step)
        return float((mean - X + slope * step).abs().max()), float((noise - expected).abs().max())

    (drift, noise), (drift_half, noise_half) = gap(1e-3), gap(5e-4)
    assert drift_half < drift / 2**1.9 or drift < 1e-12  # local error of the mean: dt^2
    assert noise_half < noise / 2**1.4 or noise < 1e-12  # and of the noise: dt^1.5


@pytest.mark.parametrize("s", [0.999, 0.5, 0.9])
def test_from_alpha_0_euler_maruyama_takes_the_bridge(s: float) -> None:
    process = FlowProcess()
    assert torch.equal(one_step("euler_maruyama", process, 1.0, s), one_step("ancestral", process, 1.0, s))


class Fresh(SeededNoise):
    """Fresh noise where a Brownian increment is asked for."""

    def at(self, index: Tensor) -> Fresh:
        return Fresh(self.seeds, index.tolist())

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        return self.normal(like)


def gaps(name: str, process: Process, make_noise: type[SeededNoise]) -> list[float]:
    """Root mean square differences between the samples of one seed on 12, 24, 48 and 96 steps."""
    data = GaussianMixture.gaussian(torch.zeros(200).double(), torch.linspace(0, 1, 200).double())
    x_start = process.start_std(1.0) * torch.linspace(-1, 1, 200, dtype=torch.float64)[None]
    runs = []
    for num_steps in (12, 24, 48, 96):
        times = process.time_of_log_snr(torch.linspace(-6, 6, num_steps + 1, dtype=torch.float64))
        result = sample(
            data.denoiser(process),
            make_sampler(name),
            times,
            shape=(200,),
            seeds=[3],
            noise=make_noise([3]),
            x_start=x_start,
            finish=False,
        )
        runs.append(result.x)
    return [float((fine - coarse).square().mean().sqrt()) for coarse, fine in pairwise(runs)]


@pytest.mark.parametrize(
    ("process_name", "name"),
    sparse_product(["ddpm_linear", "vp", "ve", "flow"], ["euler_maruyama", "reverse_diffusion"])
    + [
        pytest.param(name, sampler, marks=pytest.mark.slow)
        for name in PROCESSES
        if name not in ("ddpm_linear", "vp", "ve", "flow")
        for sampler in ("euler_maruyama", "reverse_diffusion")
    ],
)
def test_finer_grids_approach_one_image_on_one_path_and_not_with_fresh_noise(name: str, process_name: str) -> None:
    process = PROCESSES[process_name]()
    assert make_sampler(name).needs_brownian
    first, second, third = gaps(name, process, SeededNoise)
    assert third < 0.7 * second < 0.7**2 * first  # strong order 1 halves it
    first, _, third = gaps(name, process, Fresh)
    assert third > 0.7 * first
