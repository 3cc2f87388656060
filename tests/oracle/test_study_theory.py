"""The truth of the studies against closed forms and quadrature, and the studies' numbers against the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import VESDE, VPSDE, DiscreteVP, FlowProcess
from undiffuse.data import GaussiansConfig, RingsConfig, SourceConfig, SwissrollConfig, load_dataset
from undiffuse.data.sources.synthetic import ring_radii, roll_curve
from undiffuse.errors import UsageError
from undiffuse.samplers.noise import NoiseSource
from undiffuse.studies.ablations.parameterization import Cell, cells, density_bound
from undiffuse.studies.theory.context import TheoryContext, noisy_points, plane, scaled_density, scaled_scores
from undiffuse.studies.theory.ground_truth import EvenMixture, truth_of
from undiffuse.studies.theory.likelihood import likelihood_numbers, model_log_density, true_log_density
from undiffuse.studies.theory.scores import score_error
from undiffuse.studies.theory.trajectories import CloudNoise, run_sampler

PROCESSES = {"vp": VPSDE(), "ve": VESDE(0.01, 10.0), "flow": FlowProcess(), "ddpm": DiscreteVP.linear(50, 2e-3, 0.4)}
CONFIGS: dict[str, SourceConfig] = {
    "swissroll": SwissrollConfig(noise=0.1),
    "rings": RingsConfig(noise=0.1),
    "gaussians": GaussiansConfig(noise=0.1),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subject_of(truth: EvenMixture, denoiser: Denoiser, exact: bool = False) -> TheoryContext:
    return TheoryContext("test", denoiser, truth, exact, "heun", 10, "log_snr", num=100)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_fast_mixture_is_the_plain_one(name: str) -> None:
    process: Process = PROCESSES[name]
    means = torch.randn(30, 2, dtype=torch.float64, generator=seeded())
    weights = torch.rand(30, dtype=torch.float64, generator=seeded(1))
    fast = EvenMixture(means, 0.07, weights)
    plain = GaussianMixture(fast.means, fast.variances, fast.weights)
    t = torch.linspace(0.003, 0.99, 40, dtype=torch.float64)
    x = process.diffuse(means[:20].repeat(2, 1), torch.randn(40, 2, dtype=torch.float64, generator=seeded(2)), t)
    for method in ("log_prob", "score", "posterior_mean"):
        expected = getattr(plain, method)(x, process, t)
        torch.testing.assert_close(getattr(fast, method)(x, process, t), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fast.log_prob(x), plain.log_prob(x), rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_of(CONFIGS["gaussians"])
    x = truth.sample(50, seeded())
    whole = truth.log_prob(x)
    monkeypatch.setattr("undiffuse.studies.theory.ground_truth._CHUNK", 7 * 25)
    torch.testing.assert_close(truth.log_prob(x), whole, rtol=1e-12, atol=1e-12)


def test_rings_have_their_closed_form() -> None:
    """int N(x; R u, s^2 I) d angle / 2 pi = exp(-(|x| - R)^2 / 2 s^2) ive_0(|x| R / s^2) / (2 pi s^2)."""
    config = RingsConfig(noise=0.05)
    x = torch.cat([truth_of(config).sample(200, seeded()), plane(8)])
    r = x.norm(dim=1).numpy()
    s2 = config.noise**2
    each = [np.exp(-((r - R) ** 2) / 2 / s2) * special.ive(0, r * R / s2) / (2 * np.pi * s2) for R in ring_radii(3)]
    expected = torch.from_numpy(np.log(np.mean(each, axis=0) + 1e-300))
    near = expected > -300
    torch.testing.assert_close(truth_of(config).log_prob(x)[near], expected[near], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_roll_is_its_integral(noise: float) -> None:
    truth = truth_of(SwissrollConfig(noise=noise))
    at = [0.0, 0.3, 0.55, 0.98, 1.0]
    x = torch.from_numpy(roll_curve(at)) + noise * torch.tensor([[0.5, -1.0]]).double()

    def density(u: float, point: np.ndarray) -> float:
        away = ((point - roll_curve([u])[0]) ** 2).sum()
        return math.exp(-away / 2 / noise**2) / (2 * math.pi * noise**2)

    for u, point, value in zip(at, x.numpy(), truth.log_prob(x).exp().tolist(), strict=True):
        near = [v for v in (u - 0.01, u - 0.003, u, u + 0.003, u + 0.01) if 0 < v < 1]
        exact, _ = integrate.quad(density, 0, 1, args=(point,), points=near, limit=400)
        assert value == pytest.approx(exact, rel=5e-3 if u in (0.0, 1.0) else 1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_density_sums_to_one(name: str) -> None:
    points = plane(110, 3.2)
    cell = (6.4 / 109) ** 2
    assert float(truth_of(CONFIGS[name]).log_prob(points).exp().sum()) * cell == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_truth_is_that_of_its_source(name: str) -> None:
    """Points of the source and of the truth have the same mean log-density: their means and widths fit."""
    config = CONFIGS[name].model_copy(update={"num_points": 3_000})
    truth = truth_of(config)
    given = truth.log_prob(load_dataset(config).fetch(range(3_000)).items)
    drawn = truth.log_prob(truth.sample(3_000, seeded(1)))
    error = math.sqrt(float(given.var() + drawn.var()) / 3_000)
    assert abs(float(given.mean() - drawn.mean())) < 4 * error
    assert error < 0.05


def test_what_has_no_density_is_rejected() -> None:
    with pytest.raises(UsageError, match="noise=0 has no density"):
        truth_of(SwissrollConfig(noise=0))
    with pytest.raises(UsageError, match="too thin"):
        truth_of(SwissrollConfig(noise=1e-5))


class Shifted(Denoiser):
    """The truth's denoiser with x_0-hat moved by a constant."""

    def __init__(self, truth: EvenMixture, process: Process, shift: Tensor) -> None:
        super().__init__()
        self.exact, self.process, self.shift = truth.denoiser(process), process, shift

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        return Denoised(self.exact(x_t, t).x_0 + self.shift.to(x_t.dtype))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_the_fisher_divergence_of_a_known_error(name: str, ratio: float) -> None:
    """x_0-hat off by d is eps-hat off by d / r, under every process."""
    truth, shift = truth_of(CONFIGS["gaussians"]), torch.tensor([0.3, -0.4], dtype=torch.float64)
    subject = subject_of(truth, Shifted(truth, PROCESSES[name], shift))
    numbers = score_error(subject, ratio, 400)
    assert numbers["fisher"] == pytest.approx(0.25 / ratio**2, rel=1e-4)
    assert score_error(subject_of(truth, subject.denoiser, exact=True), ratio, 50)["fisher"] == 0


def test_the_loss_is_the_fisher_divergence_plus_its_floor() -> None:
    truth, ratio, count = truth_of(CONFIGS["rings"]), 0.4, 4_000
    shift = torch.tensor([0.1, 0.2], dtype=torch.float64)
    numbers = score_error(subject_of(truth, Shifted(truth, VPSDE(), shift)), ratio, count)
    cross = numbers["denoising_loss"] - numbers["loss_floor"] - numbers["fisher"]  # mean zero
    assert abs(cross) < 4 * 2 * math.sqrt(numbers["fisher"] * numbers["loss_floor"] / count)


@pytest.mark.parametrize("name", PROCESSES)
def test_scaled_scores_are_the_gradient_of_the_scaled_density(name: str) -> None:
    """sigma grad log p_t, with sigma / sqrt(alpha^2 + sigma^2) times the gradient in x~."""
    truth, ratio = truth_of(CONFIGS["gaussians"]), 0.5
    subject = subject_of(truth, truth.denoiser(PROCESSES[name]))
    scaled = noisy_points(subject, ratio, 20)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(scaled_density(subject, scaled, ratio).sum(), scaled)
    _, true = scaled_scores(subject, scaled.detach(), ratio)
    torch.testing.assert_close(true, gradient * ratio / math.sqrt(1 + ratio**2), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_the_likelihood_of_the_exact_model_is_the_truth(name: str) -> None:
    truth = truth_of(CONFIGS["gaussians"])
    subject = subject_of(truth, truth.denoiser(PROCESSES[name]), exact=True)
    y = truth.sample(12, seeded(3))
    model, true = model_log_density(subject, y, 0.1), true_log_density(subject, y, 0.1)
    # VE starts from N(0, sigma_max^2), not from the data so convolved: a gap of about 1 / (2 sigma_max^2) a dimension
    assert float((model - true).abs().max()) < (0.05 if name == "ve" else 2e-3)
    blurred = EvenMixture(truth.means, math.hypot(0.1, 0.1))
    torch.testing.assert_close(true, blurred.log_prob(y), rtol=1e-9, atol=1e-9)


def test_the_kl_of_the_exact_model_is_zero() -> None:
    truth = truth_of(CONFIGS["gaussians"])
    numbers = likelihood_numbers(subject_of(truth, truth.denoiser(FlowProcess()), exact=True), 0.3)
    assert abs(numbers["kl_nats"]) < 1e-3
    assert numbers["nll_nats"] - numbers["entropy_nats"] == pytest.approx(numbers["kl_nats"], abs=1e-9)


def test_cloud_noise_is_standard_and_new_at_every_draw() -> None:
    source: NoiseSource = CloudNoise(5)
    like = torch.empty(4_000, 2)
    prior, step = source.prior(like), source.at(torch.zeros(4_000).long())
    draws = [
        prior,
        step.normal(like),
        step.normal(like),
        source.at(torch.ones(4_000).long()).brownian(like, like, like),
    ]
    for number, draw in enumerate(draws):
        assert abs(float(draw.mean())) < 0.05 and abs(float(draw.std()) - 1) < 0.04
        assert all(abs(float((draw * other).mean())) < 0.05 for other in draws[:number])
    assert torch.equal(prior, CloudNoise(5).prior(like))


@pytest.mark.parametrize("sampler", ["heun", "ancestral", "euler_maruyama"])
def test_a_run_keeps_every_step_in_unit_variance(sampler: str) -> None:
    truth = truth_of(CONFIGS["gaussians"])
    run = run_sampler(subject_of(truth, truth.denoiser(VESDE(0.01, 10.0)), exact=True), sampler, 50, 300)
    assert len(run.scaled) == 51 and len(run.x_0) == 50
    assert all(0.7 < float(points.var(0).mean()) < 1.3 for points in run.scaled)
    assert torch.equal(run.scaled[-1], run.x)


def test_a_chain_bounds_the_density_of_a_gaussian() -> None:
    """For N(0, I) data reverse steps with variance beta are exact, so the bound is the entropy but for its decoder."""
    process = DiscreteVP.linear(30, 1e-3, 0.6)
    truth = EvenMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    x_0 = truth.sample(2_000, seeded())

    def normal(like: Tensor, number: int) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=seeded(number + 10))

    entropy = 1 + math.log(2 * math.pi)
    bounds = {var: density_bound(truth.denoiser(process), x_0, normal, var) for var in ("beta", "beta_tilde")}
    own = -truth.log_prob(x_0)
    assert float((bounds["beta"] - own).mean()) == pytest.approx(0, abs=0.02)
    assert float(own.mean()) == pytest.approx(entropy, abs=0.1)
    assert float((bounds["beta_tilde"] - bounds["beta"]).mean()) > 0.3


def test_the_table_has_twelve_cells_and_nine_trainings() -> None:
    assert len(cells()) == 12 and len({cell.name for cell in cells()}) == 12
    assert len({cell.training for cell in cells()}) == 9
    assert len({tuple(cell.overrides()) for cell in cells()}) == 9
    for cell in cells():
        assert cell.variance in cell.sampler
    assert Cell("eps", "simple", "beta").training == Cell("eps", "simple", "beta_tilde").training
