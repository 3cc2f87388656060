"""Score matching against closed forms, and that the losses of the papers are rows of our tables, number for number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, NetworkDenoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, VESDE, VPSDE, EDMProcess, FlowProcess
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.score_matching import (
    denoising_score_matching,
    fisher_divergence,
    half_g2,
    implicit_score_matching,
    quadrature,
    score_function,
    sigma2,
)
from undiffuse.losses.variational import term
from undiffuse.losses.weighting import WEIGHTINGS

CONTINUOUS = [name for name, make in PROCESSES.items() if make().num_steps is None]
MIXTURE = GaussianMixture(torch.tensor([[-0.8], [0.5]]), torch.tensor([[0.3], [0.1]]), torch.tensor([0.35, 0.65]))
PLANE = GaussianMixture(torch.tensor([[-0.8, 0.2], [0.5, -1.0]]), torch.tensor([[0.3, 0.2], [0.1, 0.6]]))


def at(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """Some score or other that belongs to no density in the plane: its components depend on each other."""
    return -0.7 * x + 0.4 * torch.sin(x).roll(1, 1) * x + 0.2 * t[:, None]


# --- Fisher divergence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VPSDE(), VESDE(0.1, 3.0), FlowProcess()])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_between_two_gaussians_it_is_the_closed_form(process: Process, t: float) -> None:
    mean, other = torch.tensor([0.4, -1.0]).double(), torch.tensor([0.1, 0.3]).double()
    var, other_var = torch.tensor([0.5, 2.0]).double(), torch.tensor([1.5, 0.7]).double()
    model = GaussianMixture.gaussian(other, other_var)
    value = fisher_divergence(
        lambda x, times: model.score(x, process, times), GaussianMixture.gaussian(mean, var), process, t
    )
    time = at(t)
    alpha, sigma2_ = process.alpha(time), process.sigma(time) ** 2
    v, w = alpha**2 * var + sigma2_, alpha**2 * other_var + sigma2_
    expected = v * (1 / w - 1 / v) ** 2 + (alpha * (mean - other) / w) ** 2
    assert value == pytest.approx(float(expected.sum()), rel=1e-10)


def test_on_a_mixture_it_is_the_integral() -> None:
    process, t = VPSDE(), 0.4
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    times = torch.full((len(x),), t, dtype=torch.float64)
    density = MIXTURE.log_prob(x, process, times).exp()
    error2 = (wavy(x, times) - MIXTURE.score(x, process, times))[:, 0] ** 2
    value = fisher_divergence(wavy, MIXTURE, process, t, num_nodes=60)
    assert value == pytest.approx(float(torch.trapezoid(density * error2, x[:, 0])), rel=1e-8)


def test_the_exact_score_has_none() -> None:
    process = FlowProcess()
    assert fisher_divergence(score_function(PLANE.denoiser(process)), PLANE, process, 0.3) < 1e-20


def test_its_quadrature_has_the_moments_of_the_marginal() -> None:
    process, t = VPSDE(), 0.3
    x, p = quadrature(PLANE, process, t, 8)
    alpha, sigma = (float(f(at(t))) for f in (process.alpha, process.sigma))
    assert x.shape == (2 * 64, 2)
    assert float(p.sum()) == pytest.approx(1, rel=1e-12)
    assert torch.allclose(p @ x, alpha * PLANE.mean, rtol=1e-12)
    assert torch.allclose(p @ x**2 - (p @ x) ** 2, alpha**2 * PLANE.variance + sigma**2, rtol=1e-12)


def test_too_many_points_are_rejected() -> None:
    wide = GaussianMixture(torch.zeros(1, 6), torch.ones(1))
    with pytest.raises(UsageError, match="32 nodes in 6 dimensions"):
        fisher_divergence(wavy, wide, VPSDE(), 0.5)


def test_its_integral_against_half_g2_is_a_difference_of_kullback_leibler_divergences() -> None:
    """Song et al. 2021, arXiv:2101.09258, thm. 1 with equality: the model's scores are those of a diffused Gaussian."""
    process = VPSDE()
    data = GaussianMixture.gaussian(torch.tensor([0.5]), torch.tensor([0.4]))
    model = GaussianMixture.gaussian(torch.tensor([-0.2]), torch.tensor([0.9]))

    def divergence(t: float) -> float:
        time = at(t)
        alpha, noise2 = process.alpha(time), process.sigma(time) ** 2
        v, w = (alpha**2 * mixture.variance + noise2 for mixture in (data, model))
        return float(0.5 * (v / w - 1 - torch.log(v / w) + (alpha * (data.mean - model.mean)) ** 2 / w))

    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = sum(
        weight / 2 * float(half_g2(process, at(t)))
        * fisher_divergence(lambda x, times: model.score(x, process, times), data, process, t, 4)
        for t, weight in zip((nodes + 1) / 2, weights, strict=True)
    )  # fmt: skip
    assert total == pytest.approx(divergence(0.0) - divergence(1.0), rel=1e-10)


# --- the three forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VPSDE(), VESDE(0.3, 3.0), FlowProcess()])
def test_implicit_score_matching_is_the_explicit_but_for_the_datas_own(process: Process) -> None:
    """Hyvarinen 2005, theorem 1, in the plane."""
    t = 0.5
    x, p = quadrature(PLANE, process, t, 40)
    times = torch.full((len(x),), t, dtype=torch.float64)
    own = float(p @ (PLANE.score(x, process, times) ** 2).sum(1))
    implicit = float(p @ implicit_score_matching(wavy, x, times))
    assert implicit == pytest.approx(fisher_divergence(wavy, PLANE, process, t, 40) - own, rel=1e-8)


@pytest.mark.parametrize("process", [VPSDE(), VESDE(0.3, 3.0), FlowProcess()])
def test_denoising_score_matching_is_the_explicit_plus_a_constant(process: Process) -> None:
    """Vincent 2011: E ||s + eps / sigma||^2 = F + D / sigma^2 - E ||grad log p_t||^2."""
    t, num_nodes = 0.6, 48
    x_0, p_0 = quadrature(MIXTURE, FlowProcess(), 0.0, num_nodes)
    eps, p_eps = quadrature(GaussianMixture(torch.zeros(1, 1), torch.ones(1)), FlowProcess(), 0.0, num_nodes)
    pairs_x, pairs_eps = (part[:, None] for part in torch.cartesian_prod(x_0[:, 0], eps[:, 0]).unbind(1))
    times = torch.full((len(pairs_x),), t, dtype=torch.float64)
    rows = denoising_score_matching(wavy, process, pairs_x, pairs_eps, times, lambda process, t: torch.ones_like(t))
    x, p = quadrature(MIXTURE, process, t, num_nodes)
    own = float(p @ (MIXTURE.score(x, process, times[: len(x)]) ** 2).sum(1))
    constant = 1 / float(process.sigma(times[:1])) ** 2 - own
    expected = fisher_divergence(wavy, MIXTURE, process, t, num_nodes) + constant
    assert float((p_0[:, None] * p_eps).flatten() @ rows) == pytest.approx(expected, rel=1e-7)


# --- rows of the table ----------------------------------------------------------------------------------------------


class Bent(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        return torch.tanh(x) + 0.1 * torch.cos(c_noise).reshape(-1, *([1] * (x.ndim - 1)))


def denoiser_of(parameterization: str, process: Process) -> NetworkDenoiser:
    return NetworkDenoiser(Bent(), Parameterization(parameterization, process))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v", "score", "edm"])
@pytest.mark.parametrize(("factor", "weighting"), [(sigma2, "score"), (sigma2, "simple"), (half_g2, "likelihood")])
def test_a_factor_on_the_score_is_a_row_of_weightings(
    name: str, parameterization: str, factor: object, weighting: str
) -> None:
    process = PROCESSES[name]()
    x_0, eps, t = noise((5, 2, 3)), noise((5, 2, 3), 1), torch.tensor([0.0305, 0.2, 0.5, 0.7, 0.95]).double()
    denoiser = denoiser_of(parameterization, process)
    ours = denoising_loss(denoiser, x_0, eps, t, WEIGHTINGS[weighting]())
    scores = denoising_score_matching(score_function(denoiser), process, x_0, eps, t, factor)  # type: ignore[arg-type]
    assert torch.allclose(ours, scores, rtol=1e-8)


def test_the_losses_of_the_documents() -> None:
    """VE: the network's score times sigma plus the noise. VP: the network's output is read as noise."""
    x_0, eps, t = noise((4, 2)), noise((4, 2), 1), torch.tensor([0.1, 0.4, 0.6, 0.9]).double()
    ve, vp = VESDE(), VPSDE()
    s = Bent()(ve.diffuse(x_0, eps, t), 1000 * t, Condition())
    literal = ((s * ve.sigma(t)[:, None] + eps) ** 2).mean(1)
    assert torch.allclose(denoising_loss(denoiser_of("score", ve), x_0, eps, t, WEIGHTINGS["score"]()), literal)
    guess = Bent()(vp.diffuse(x_0, eps, t), 1000 * t, Condition())
    literal = ((guess - eps) ** 2).mean(1)
    assert torch.allclose(denoising_loss(denoiser_of("eps", vp), x_0, eps, t, WEIGHTINGS["score"]()), literal)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_likelihood_weighting_is_the_bounds_own_in_the_limit(name: str) -> None:
    """A term of the bound over a short step, an interval of time at a time, at its middle."""
    process = PROCESSES[name]()
    t, half = torch.tensor([0.1, 0.3, 0.6, 0.9]).double(), 1e-4
    x_0 = torch.ones(4, 1).double()
    terms = term(process.bridge(t - half, t + half), x_0, Denoised(torch.zeros_like(x_0)), "beta_tilde") / (2 * half)
    weight = torch.exp(WEIGHTINGS["likelihood"]()(process, t))
    assert torch.allclose(weight, terms, rtol=1e-4)
    assert torch.equal(weight, torch.exp(WEIGHTINGS["variational"]()(process, t)))
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert torch.allclose(weight, process.diffusion2(t) * alpha**2 / (2 * sigma**4), rtol=1e-9)


# --- EDM and flow matching ------------------------------------------------------------------------------------------


def test_edm_is_the_loss_of_karras() -> None:
    """E lambda(sigma) ||D(y + n; sigma) - y||^2 with log sigma normal: table 1 and eqs. 2, 7 and 8, written out."""
    process, spread = EDMProcess(80.0), 0.5
    u = torch.tensor([0.03, 0.3, 0.5, 0.8, 0.99]).double()
    t = TIME_DENSITIES["log_normal"]()(process, u)
    sigma = torch.exp(-1.2 + 1.2 * torch.special.ndtri(u))
    assert torch.allclose(process.sigma(t), sigma, rtol=1e-12)
    y, n = 0.5 * noise((5, 3)), noise((5, 3), 1)
    s = sigma[:, None]
    total = s**2 + spread**2
    inner = Bent()((y + s * n) / total.sqrt(), torch.log(sigma) / 4, Condition())
    denoised = spread**2 / total * (y + s * n) + s * spread / total.sqrt() * inner
    karras = total[:, 0] / (sigma * spread) ** 2 * ((denoised - y) ** 2).mean(1)
    ours = denoising_loss(denoiser_of("edm", process), y, n, t, WEIGHTINGS["edm"]())
    assert torch.allclose(ours, karras, rtol=1e-10)


@pytest.mark.parametrize(
    ("density", "options"),
    [("uniform", {}), ("logit_normal", {"mean": 0.3, "std": 1.1}), ("log_normal", {"mean": -0.4, "std": 1.0})],
)
def test_flow_matching_is_the_plain_error_of_the_velocity(density: str, options: dict[str, float]) -> None:
    process = FlowProcess()
    u = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.999]).double()
    t = TIME_DENSITIES[density](**options)(process, u)
    x_0, eps = noise((5, 3)), noise((5, 3), 1)
    x_t = (1 - t)[:, None] * x_0 + t[:, None] * eps
    velocity = Bent()(x_t, 1000 * t, Condition())
    expected = ((eps - x_0 - velocity) ** 2).mean(1)
    ours = denoising_loss(denoiser_of("flow", process), x_0, eps, t, WEIGHTINGS["flow"]())
    assert torch.allclose(ours, expected, rtol=1e-12)
    if density != "uniform":  # sigma / alpha = t / (1 - t): the two normal densities are one
        quantile = (torch.logit(t) - options["mean"]) / options["std"]
        assert torch.allclose(torch.special.ndtr(quantile), u, rtol=1e-9)
    else:
        assert torch.equal(t, u)


def test_a_mean_over_stratified_times_is_the_integral_over_the_density() -> None:
    """A density and its weight can be traded: uniform times with weight w equal times drawn by w with weight one."""
    process, options = FlowProcess(), {"mean": 0.2, "std": 0.8}
    u = (torch.arange(20_000).double() + 0.5) / 20_000
    t = TIME_DENSITIES["logit_normal"](**options)(process, u)
    drawn = torch.sin(3 * t).mean()
    z = (torch.logit(u) - options["mean"]) / options["std"]
    density = torch.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * options["std"] * u * (1 - u))
    assert float(drawn) == pytest.approx(float((density * torch.sin(3 * u)).mean()), rel=1e-6)
