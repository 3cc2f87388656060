"""What ancestral and DDIM steps draw from: the textbook posterior, and data on which each variance is exact."""

from __future__ import annotations

import pytest
import torch
from exact_moments import marginal, output_moments
from torch import Tensor

from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, DiscreteVP
from undiffuse.samplers import make_sampler

CHAINS = {"linear": DiscreteVP.linear(200), "cosine": DiscreteVP.cosine(100), "uneven": DiscreteVP([0.02, 0.5, 0.1])}


def gaussian(mean: float, variance: float) -> GaussianMixture:
    return GaussianMixture.gaussian(*torch.tensor([[mean, -mean], [variance, variance]], dtype=torch.float64))


@pytest.mark.parametrize("name", CHAINS)
def test_neighbouring_knots_give_the_posterior_of_ho(name: str) -> None:
    process = CHAINS[name]
    bridge = process.bridge(process.knots[:-1], process.knots[1:])
    beta = process.betas
    after = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), after[:-1]])
    expected = {
        "alpha_ts": torch.sqrt(1 - beta),
        "var_max": beta,
        "c_t": torch.sqrt(1 - beta) * (1 - before) / (1 - after),
        "c_0": torch.sqrt(before) * beta / (1 - after),
        "var": (1 - before) / (1 - after) * beta,
    }
    for entry, values in expected.items():
        assert torch.allclose(getattr(bridge, entry), values, rtol=1e-9, atol=1e-14), entry


@pytest.mark.parametrize("name", CHAINS)
def test_knots_further_apart_give_the_posterior_of_the_chain(name: str) -> None:
    """q(x_s | x_t, x_0) by conditioning the joint Gaussian of (x_s, x_t) given x_0."""
    process = CHAINS[name]
    s, t = process.knots[[1, 1, 2]], process.knots[[2, 3, 3]]
    alpha_bar_s, alpha_bar_t = process.alpha(s) ** 2, process.alpha(t) ** 2
    covariance = torch.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s)
    gain = covariance / (1 - alpha_bar_t)
    bridge = process.bridge(s, t)
    assert torch.allclose(bridge.c_t, gain)
    assert torch.allclose(bridge.c_0, alpha_bar_s.sqrt() - gain * alpha_bar_t.sqrt())
    assert torch.allclose(bridge.var, (1 - alpha_bar_s) - gain * covariance)


def errors(spec: str, process_name: str, data: GaussianMixture, times: Tensor) -> tuple[float, float]:
    """Of mean and standard deviation at the last time, starting from the exact marginal at the first."""
    process = PROCESSES[process_name]()
    moments = output_moments(data.denoiser(process), make_sampler(spec), times, *marginal(data, process, times[0]))
    exact = marginal(data, process, times[-1])
    return tuple(float((got - want).abs().max()) for got, want in zip(moments, exact, strict=True))  # type: ignore[return-value]


FEW_TIMES = torch.tensor([0.99, 0.6, 0.55, 0.1, 0.002], dtype=torch.float64)


@pytest.mark.parametrize("process_name", ["vp", "ddpm_linear", "ddpm_cosine"])
def test_beta_is_exact_for_standard_normal_data(process_name: str) -> None:
    assert max(errors("ancestral:variance=beta", process_name, gaussian(0.0, 1.0), FEW_TIMES)) < 1e-9
    assert errors("ancestral:variance=beta_tilde", process_name, gaussian(0.0, 1.0), FEW_TIMES)[1] > 0.01


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("spec", ["ancestral:variance=beta_tilde", "ddim:eta=0", "ddim:eta=0.3", "ddim:eta=1", "heun"])
def test_a_single_point_is_met_exactly(spec: str, process_name: str) -> None:
    assert max(errors(spec, process_name, gaussian(0.7, 0.0), FEW_TIMES)) < 1e-9


@pytest.mark.parametrize("process_name", PROCESSES)
def test_beta_is_too_much_for_a_single_point(process_name: str) -> None:
    assert errors("ancestral:variance=beta", process_name, gaussian(0.7, 0.0), FEW_TIMES)[1] > 1e-3


@pytest.mark.parametrize("process_name", PROCESSES)
def test_ddim_with_eta_1_is_ancestral_sampling(process_name: str) -> None:
    process, data = PROCESSES[process_name](), gaussian(0.3, 0.2)
    start = marginal(data, process, FEW_TIMES[0])
    one, other = (
        output_moments(data.denoiser(process), make_sampler(spec), FEW_TIMES, *start)
        for spec in ("ddim:eta=1", "ancestral:variance=beta_tilde")
    )
    assert torch.allclose(one[0], other[0], rtol=1e-10)
    assert torch.allclose(one[1], other[1], rtol=1e-10)


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_noise_of_a_ddim_step_is_eta_times_the_posteriors(eta: float, process_name: str) -> None:
    process, data = PROCESSES[process_name](), gaussian(0.3, 0.2)
    times = torch.tensor([0.8, 0.5], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    _, std = output_moments(data.denoiser(process), make_sampler(f"ddim:eta={eta}"), times, zero, zero)
    expected = eta * process.bridge(times[1:], times[:1]).var.sqrt()
    assert torch.allclose(std, expected.expand(2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_the_final_step_is_the_mean_without_noise(process_name: str) -> None:
    process, data = PROCESSES[process_name](), gaussian(0.3, 0.2)
    times = torch.tensor([0.5, 0.0], dtype=torch.float64)
    x = torch.full((2,), 0.4, dtype=torch.float64)
    expected = data.posterior_mean(x[None], process, times[:1])[0]
    for spec in ("ancestral", "ancestral:variance=beta", "ddim:eta=1", "euler", "heun", "dpmpp_2m"):
        mean, std = output_moments(data.denoiser(process), make_sampler(spec), times, x, 0 * x, finish=True)
        assert torch.allclose(mean, expected)
        assert torch.equal(std, 0 * x)
