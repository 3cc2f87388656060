"""Karras et al. 2022 (arXiv:2206.00364): table 1 and algorithms 1 and 2, written down once more from the paper.

Nothing here uses our formulas: x is the paper's (ours divided by alpha), sigma is its noise level (ours over alpha).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, VESDE, VPSDE, EDMProcess
from undiffuse.errors import UsageError
from undiffuse.losses.density import log_normal
from undiffuse.losses.weighting import edm as edm_weight
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.edm import MAX_CHURN, churned_time
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise

Array = NDArray[np.float64]
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX, RHO = 0.5, 0.002, 80.0, 7
SIGMAS = torch.logspace(-3, 1.9, 40, dtype=torch.float64)


def close(a: Tensor, b: Tensor, rtol: float = 1e-12) -> bool:
    return torch.allclose(a, b, rtol=rtol, atol=0)


def noise_level(process: Process, t: Tensor) -> Tensor:
    return process.sigma(t) / process.alpha(t)


def test_edm_column_preconditioning() -> None:
    process = EDMProcess(SIGMA_MAX)
    row = Parameterization("edm", process)(SIGMAS / SIGMA_MAX)
    total = SIGMAS**2 + SIGMA_DATA**2
    assert close(row.c_skip, SIGMA_DATA**2 / total)
    assert close(row.c_out, SIGMAS * SIGMA_DATA / total.sqrt())
    assert close(row.c_in, 1 / total.sqrt())
    assert torch.allclose(row.c_noise, SIGMAS.log() / 4, rtol=1e-12, atol=1e-14)


def test_edm_column_is_the_same_row_under_variance_preservation() -> None:
    process, t = VPSDE(), torch.linspace(0.01, 1, 30, dtype=torch.float64)
    row, sigma, s = Parameterization("edm", process)(t), noise_level(process, t), process.alpha(t)
    total = sigma**2 + SIGMA_DATA**2
    assert close(row.c_skip * s, SIGMA_DATA**2 / total)  # ours multiplies s x
    assert close(row.c_out, sigma * SIGMA_DATA / total.sqrt())
    assert close(row.c_in * s, 1 / total.sqrt())


def test_vp_column() -> None:
    beta_d, beta_min, t = 19.9, 0.1, torch.linspace(1e-3, 1, 30, dtype=torch.float64)
    process = VPSDE(beta_min, beta_min + beta_d)
    exponent = beta_d * t**2 / 2 + beta_min * t
    sigma, s = torch.sqrt(torch.expm1(exponent)), 1 / torch.sqrt(torch.exp(exponent))
    assert close(process.alpha(t), s)
    assert close(noise_level(process, t), sigma)
    row = Parameterization("eps", process)(t)
    assert close(row.c_skip * s, torch.ones_like(t))
    assert close(row.c_out, -sigma)
    assert close(row.c_in * s, 1 / torch.sqrt(sigma**2 + 1))


def test_ve_column() -> None:
    low, high, num = 0.02, 100.0, 12
    process = VESDE(low, high)
    published = [high**2 * (low**2 / high**2) ** (i / (num - 1)) for i in range(num)]  # its t, with sigma = sqrt(t)
    t = time_grid("uniform", process, num - 1)
    assert close(process.sigma(t), torch.tensor(published, dtype=torch.float64).sqrt())
    assert close(process.alpha(t), torch.ones(num, dtype=torch.float64))
    row = Parameterization("eps", process)(t)  # the paper's network says -eps
    assert close(row.c_skip, torch.ones_like(t))
    assert close(-row.c_out, process.sigma(t))
    assert close(row.c_in, torch.ones_like(t))


@pytest.mark.parametrize("num", [2, 18])
@pytest.mark.parametrize("process_name", ["edm", "flow"])
def test_edm_column_time_steps(process_name: str, num: int) -> None:
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    published = [(high + i / (num - 1) * (low - high)) ** RHO for i in range(num)]
    process = PROCESSES[process_name]()
    starts_without_signal = process_name == "flow"
    levels = noise_level(process, time_grid("karras", process, num + starts_without_signal))[starts_without_signal:]
    assert close(levels[:-1], torch.tensor(published, dtype=torch.float64))
    assert float(levels[-1]) == 0


def test_edm_column_loss_weight_and_noise_density() -> None:
    process = EDMProcess(1e4)
    weight = edm_weight(SIGMA_DATA)(process, SIGMAS / 1e4).exp()
    assert close(weight, (SIGMAS**2 + SIGMA_DATA**2) / (SIGMAS * SIGMA_DATA) ** 2)
    u = torch.linspace(0.001, 0.999, 51, dtype=torch.float64)
    log_sigma = noise_level(process, log_normal()(process, u)).log()
    below = [0.5 * math.erfc(-(v + 1.2) / 1.2 / math.sqrt(2)) for v in log_sigma.tolist()]
    assert close(torch.tensor(below, dtype=torch.float64), u)


MEANS, VARIANCES = np.array([[-0.8, 0.3], [0.6, 0.1]]), np.array([0.04, 0.09])
DATA = GaussianMixture(torch.tensor(MEANS), torch.tensor(VARIANCES))


def denoise(x: Array, sigma: float) -> Array:
    """D(x; sigma) of two round Gaussians."""
    total = VARIANCES + sigma**2
    gap = x[:, None, :] - MEANS
    log_weight = -(gap**2).sum(-1) / total / 2 - np.log(total)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return np.asarray((weight[..., None] * (MEANS + VARIANCES[:, None] / total[:, None] * gap)).sum(1))


def algorithm_2(
    x: Array, t: Array, noise: Callable[[int], Array], churn: float, t_min: float, t_max: float, s_noise: float
) -> Array:
    """The paper's algorithm 2 with sigma(t) = t and s(t) = 1, line by line."""
    count = len(t) - 1
    for i in range(count):
        gamma = min(churn / count, math.sqrt(2) - 1) if t_min <= t[i] <= t_max else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * s_noise * noise(i)
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - denoise(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_next / 2)
    return x


@pytest.mark.parametrize("process_name", ["edm", "vp", "flow"])
@pytest.mark.parametrize("options", [(0.0, 0.0, 50.0, 1.0), (40.0, 0.05, 50.0, 1.003), (5.0, 0.0, 20.0, 1.0)])
def test_the_samplers_are_algorithm_2(process_name: str, options: tuple[float, float, float, float]) -> None:
    process, seeds, like = PROCESSES[process_name](), [4, 5, 6], torch.empty(3, 2, dtype=torch.float64)
    times = time_grid("karras", process, 14)[process_name == "flow" :]  # the paper's has no start without signal
    y_start = float(noise_level(process, times)[0]) * SeededNoise(seeds).prior(like)

    def noise(i: int) -> Array:
        return np.asarray(SeededNoise(seeds).at(torch.full((3,), i)).normal(like))

    theirs = algorithm_2(y_start.numpy(), noise_level(process, times).numpy(), noise, *options)
    churn, s_min, s_max, s_noise = options
    spec = f"edm:s_churn={churn},s_min={s_min},s_max={s_max},s_noise={s_noise}"
    x_start = process.alpha(times[:1]) * y_start
    for name in [spec, "heun"] if churn == 0 else [spec]:
        ours = sample(
            DATA.denoiser(process),
            make_sampler(name),
            times,
            shape=(2,),
            seeds=seeds,
            x_start=x_start,
            dtype=like.dtype,
        ).x
        assert torch.allclose(ours, torch.tensor(theirs), rtol=1e-10, atol=1e-10), float(
            (ours - torch.tensor(theirs)).abs().max()
        )


@pytest.mark.parametrize("process_name", PROCESSES)
def test_without_churn_it_is_heun_bit_for_bit(process_name: str) -> None:
    process = PROCESSES[process_name]()
    times = time_grid("log_snr", process, 6)
    ours, heun = (
        sample(DATA.denoiser(process), make_sampler(name), times, shape=(2,), seeds=[1, 2])
        for name in ("edm:s_churn=0", "heun")
    )
    assert torch.equal(ours.x, heun.x)
    assert ours.nfe == heun.nfe


def test_churn_stays_within_what_was_trained_and_within_its_range() -> None:
    class Trained(Denoiser):
        process = EDMProcess(80.0)
        log_snr_range = (-2 * math.log(10.0), math.inf)

    sigma = torch.tensor([0.01, 0.5, 8.0, 9.999, 10.0, 60.0], dtype=torch.float64)
    gamma = torch.full_like(sigma, MAX_CHURN)
    t_hat = churned_time(Trained(), sigma / 80, gamma, 0.05, 50.0)
    expected = torch.tensor([0.01, 0.5 * math.sqrt(2), 10.0, 10.0, 10.0, 60.0], dtype=torch.float64)
    assert close(t_hat * 80, expected)
    assert torch.equal(t_hat[[0, 4, 5]], (sigma / 80)[[0, 4, 5]])


@pytest.mark.parametrize("spec", ["edm:s_churn=-1", "edm:s_min=2,s_max=1", "edm:s_noise=0", "edm:s_churn=nan"])
def test_options_out_of_range_are_rejected(spec: str) -> None:
    with pytest.raises(UsageError, match="edm needs 0 <= s_churn"):
        make_sampler(spec)
