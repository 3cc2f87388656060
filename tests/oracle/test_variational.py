"""The variational bound against closed forms: no training, no tolerance for a formula that is only nearly right.

On a one-dimensional set with its exact Bayes denoiser, the bound minus the entropy is what the discretisation of time
costs, nothing else. Expectations over x_t are taken by the trapezoidal rule, which is exact here to rounding.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, DiscreteVP, EDMProcess, FlowProcess
from undiffuse.errors import UsageError
from undiffuse.losses.variational import Bound, discretised_gaussian, prior_term, term, variational_bound

LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)
FEW_LEVELS = torch.linspace(-1, 1, 24, dtype=torch.float64)  # where 256 would show no more
#: Exact for E_eps of anything analytic: the error of a step of 0.4 standard deviations is exp(-2 pi^2 / 0.16).
EPS = torch.arange(-8.0, 8.2, 0.4, dtype=torch.float64)
EPS_WEIGHTS = torch.softmax(-0.5 * EPS**2, 0)
VARIANCES = ["beta", "beta_tilde", 0.3, 0.85]


def log_of(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64).log()


def two_bumps(levels: Tensor = LEVELS) -> Tensor:
    weights = torch.exp(-(((levels + 0.5) / 0.1) ** 2)) + torch.exp(-(((levels - 0.4) / 0.2) ** 2))
    return weights / weights.sum()


def entropy(weights: Tensor) -> float:
    """Nats."""
    return -float((weights * torch.log(weights)).sum())


def points(weights: Tensor) -> GaussianMixture:
    """Levels with these weights, as a mixture with zero variances."""
    levels = torch.linspace(-1, 1, len(weights), dtype=torch.float64)
    return GaussianMixture(levels[:, None], torch.zeros_like(levels), weights)


def expected_bound(
    denoiser: Denoiser, nodes: Tensor, weights: Tensor, times: Tensor, **options: str | float
) -> tuple[Bound, Tensor]:
    """``variational_bound`` at every pair of a datum and a noise, and each pair's probability."""
    x_0 = nodes.repeat_interleave(len(EPS))[:, None]
    probability = (weights[:, None] * EPS_WEIGHTS).flatten()
    bound = variational_bound(denoiser, x_0, times, lambda like, number: EPS.repeat(len(nodes))[:, None], **options)
    return bound, probability


def mean_square_error(weights: Tensor, process: DiscreteVP, t: Tensor) -> float:
    """E (x_0 - E[x_0 | x_t])^2 at one time, on a grid of x_t with 4 points a standard deviation."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    reach, step = float(alpha + 8.5 * sigma), float(sigma) / 4
    x = torch.arange(-reach, reach + step, step, dtype=torch.float64)[:, None]
    data = points(weights)
    levels = data.means[:, 0]
    joint = weights * torch.exp(-0.5 * ((x - alpha * levels) / sigma) ** 2) * step / (sigma * math.sqrt(2 * math.pi))
    density = joint.sum(1)
    mean = data.posterior_mean(x, process, t.expand(len(x)))[:, 0]
    return float((weights * levels**2).sum() - (density * mean**2).sum())


def mean_square_errors(weights: Tensor, process: DiscreteVP) -> Tensor:
    """The same at knots 1 ... T."""
    errors = [mean_square_error(weights, process, t[None]) for t in process.knots[1:]]
    return torch.tensor(errors, dtype=torch.float64)


def reverse_variance(beta: Tensor, beta_tilde: Tensor, variance: str | float) -> Tensor:
    mix = {"beta": 1.0, "beta_tilde": 0.0}.get(variance, variance) if isinstance(variance, str) else variance
    return torch.exp(mix * torch.log(beta) + (1 - mix) * torch.log(beta_tilde))


def closed_form(betas: Tensor, square_errors: Tensor, variance: str | float) -> Tensor:
    """E L_2 ... E L_T from a chain's betas alone (Ho et al. 2020, eqs. 5-7), ``square_errors`` at knots 2 ... T."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    beta, before, after = betas[1:], alpha_bar[:-1], alpha_bar[1:]
    beta_tilde = (1 - before) / (1 - after) * beta
    mean_error = before * beta**2 / (1 - after) ** 2 * square_errors
    v = reverse_variance(beta, beta_tilde, variance)
    return 0.5 * (torch.log(v / beta_tilde) + beta_tilde / v - 1 + mean_error / v)


# --- figures that the source documents give -------------------------------------------------------------------------


def test_alpha_bar_of_the_200_step_schedule() -> None:
    alpha_bar = DiscreteVP.linear(200).alpha(torch.tensor([1, 2, 3, 4, 200]).double() / 200) ** 2
    assert [round(value, 4) for value in alpha_bar.tolist()] == [0.9999, 0.9997, 0.9994, 0.9990, 0.1322]
    assert torch.allclose(DiscreteVP.linear(200).betas.diff(), torch.tensor(1e-4).double(), atol=1e-12)


def test_the_1000_step_schedule_ends_in_noise() -> None:
    process = DiscreteVP.linear(1000)
    end = torch.ones(1, dtype=torch.float64)
    assert f"{float(process.alpha(end) ** 2):.1e}" == "4.0e-05"
    for x_0 in (-1.0, 0.0, 1.0):
        nats = prior_term(points(two_bumps()).denoiser(process), torch.full((1, 1), x_0), end[0])
        assert 0 <= float(nats) / math.log(2) < 1e-4


def test_the_200_step_schedule_leaves_signal_at_the_end() -> None:
    denoiser = points(two_bumps()).denoiser(DiscreteVP.linear(200))
    nats = prior_term(denoiser, torch.tensor([[1.0, -1.0]]), torch.tensor(1.0).double())
    assert float(nats) / (2 * math.log(2)) == pytest.approx(0.10, abs=0.005)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_prior_term_is_the_divergence_of_two_gaussians(process_name: str) -> None:
    process = PROCESSES[process_name]()
    denoiser = points(two_bumps()).denoiser(process)
    x_0, t = torch.tensor([[0.3, -0.8], [0.0, 1.0]]).double(), torch.tensor(0.7).double()
    alpha, sigma = process.alpha(t[None]), process.sigma(t[None])
    q = torch.distributions.Normal(alpha * x_0, sigma.expand_as(x_0))
    p = torch.distributions.Normal(torch.zeros_like(x_0), torch.full_like(x_0, process.prior_std))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    assert torch.allclose(prior_term(denoiser, x_0, t), expected, rtol=1e-12)


# --- single terms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_term_is_the_divergence_of_two_gaussians(process_name: str, variance: str | float) -> None:
    process = PROCESSES[process_name]()
    t = torch.tensor([0.001, 0.05, 0.5, 0.9]).double()
    bridge = process.bridge(t * 0.8, t)
    generator = torch.Generator().manual_seed(0)
    x_0, guess = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    v = reverse_variance(bridge.var_max, bridge.var, variance)[:, None]
    q = torch.distributions.Normal(bridge.c_0[:, None] * x_0, bridge.var.sqrt()[:, None])
    p = torch.distributions.Normal(bridge.c_0[:, None] * guess, v.sqrt())
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    assert torch.allclose(term(bridge, x_0, Denoised(guess), variance), expected, rtol=1e-9)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_with_beta_tilde_a_term_is_half_the_loss_of_snr(process_name: str) -> None:
    process = PROCESSES[process_name]()
    s, t = torch.tensor([0.1, 0.3, 0.9]).double(), torch.tensor([0.11, 0.8, 0.95]).double()
    x_0, guess = torch.tensor([[0.2], [1.0], [-0.4]]).double(), torch.tensor([[0.1], [-1.0], [-0.3]]).double()
    snr_s, snr_t = process.log_snr(s).exp(), process.log_snr(t).exp()
    expected = 0.5 * (snr_s - snr_t) * (x_0 - guess)[:, 0] ** 2
    assert torch.allclose(term(process.bridge(s, t), x_0, Denoised(guess), "beta_tilde"), expected, rtol=1e-12)


def test_with_beta_the_mean_is_scaled_and_the_variance_costs() -> None:
    process = DiscreteVP.linear(1000)
    t = torch.tensor([2.0, 30, 500, 1000]).double() / 1000
    bridge = process.bridge(t - 1e-3, t)
    x_0, guess = torch.full((4, 2), 0.5).double(), torch.full((4, 2), 0.1).double()
    r = bridge.var / bridge.var_max
    small = term(bridge, x_0, Denoised(guess), "beta_tilde")
    assert torch.allclose(term(bridge, x_0, Denoised(guess), "beta"), r * small + (r - 1 - r.log()), rtol=1e-9)


def test_a_learned_variance_lies_between_the_two() -> None:
    bridge = DiscreteVP.linear(100).bridge(torch.tensor([0.03]).double(), torch.tensor([0.04]).double())
    x_0, guess = torch.tensor([[0.5, 0.2]]).double(), torch.tensor([[0.3, 0.25]]).double()
    for mix, variance in [(0.0, "beta_tilde"), (1.0, "beta"), (0.3, 0.3)]:
        learned = term(bridge, x_0, Denoised(guess, torch.full_like(x_0, mix)), "learned")
        assert torch.allclose(learned, term(bridge, x_0, Denoised(guess), variance), rtol=1e-12)


# --- the decoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 3, 16, 256])
@pytest.mark.parametrize("std", [1e-4, 0.01, 0.3, 20.0])
def test_the_decoder_is_a_distribution_over_the_levels(num_levels: int, std: float) -> None:
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    for mean in (-1.7, -1.0, -0.333, 0.0, 0.5, 1.0, 4.0):
        log_p = discretised_gaussian(levels, torch.full_like(levels, mean), log_of(std), num_levels)
        assert not bool(log_p.isnan().any())
        assert float(torch.logsumexp(log_p, 0)) == pytest.approx(0, abs=1e-12)


def test_the_decoder_is_the_mass_of_each_interval() -> None:
    levels, normal = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.distributions.Normal(0.1, 0.4)
    edges = normal.cdf(torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    expected = torch.cat([edges, torch.ones(1)]) - torch.cat([torch.zeros(1), edges])
    got = discretised_gaussian(levels, torch.full_like(levels, 0.1), log_of(0.4), 5)
    assert torch.allclose(got.exp(), expected.double(), rtol=1e-6)


def test_the_decoder_keeps_its_digits_far_out() -> None:
    x_0 = torch.tensor([0.6, -0.6]).double().expand(2)
    far = discretised_gaussian(LEVELS[[204, 51]], torch.tensor([-1.0, 1.0]).double(), log_of(0.02))
    assert bool(far.isfinite().all())
    assert float(far[0]) == pytest.approx(float(far[1]), rel=1e-12)
    # log of the mass = log density x width, corrected by the slope of the density across the interval
    edge = float(LEVELS[204]) - 1 / 255 + 1.0
    expected = float(torch.special.log_ndtr(torch.tensor(-edge / 0.02).double()))
    assert float(far[0]) == pytest.approx(expected, rel=1e-4)
    assert x_0.shape == far.shape


@pytest.mark.parametrize(
    ("variance", "decoder", "expected"),
    [
        ("beta", "snr", "snr"),
        ("beta_tilde", "snr", "snr"),
        ("beta", "reverse", "snr"),
        ("beta_tilde", "reverse", "second knot"),
        (0.5, "reverse", "geometric mean"),
        ("beta", 0.123, "0.123"),
    ],
)
def test_the_decoder_reports_its_deviation(variance: str | float, decoder: str | float, expected: str) -> None:
    process = DiscreteVP.linear(50)
    x_0 = LEVELS[::50, None]
    normal = lambda like, number: torch.zeros_like(like)  # noqa: E731
    bound = variational_bound(
        points(two_bumps()).denoiser(process), x_0, process.knots[1:], normal, variance=variance, decoder=decoder
    )
    beta = process.betas
    alpha_bar = torch.cumprod(1 - beta, 0)
    large = math.sqrt(float(beta[0] / alpha_bar[0]))  # sigma / alpha at the first knot
    small = math.sqrt(float(beta[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])))
    values = {"snr": large, "second knot": small, "geometric mean": math.sqrt(large * small), "0.123": 0.123}
    assert bound.decoder_std == pytest.approx(values[expected], rel=1e-9)
    guess = points(two_bumps()).posterior_mean(process.alpha(process.knots[1:2]) * x_0, process, process.knots[1:2])
    log_p = discretised_gaussian(x_0, guess, log_of(values[expected]))
    assert torch.allclose(bound.decoder, -log_p[:, 0], rtol=1e-9)


# --- the whole bound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
def test_on_gaussian_data_every_term_has_its_closed_form(variance: str | float) -> None:
    process, mean, var = DiscreteVP.linear(40, 1e-3, 0.3), 0.2, 0.09
    data = GaussianMixture.gaussian(torch.tensor([mean]).double(), torch.tensor([var]).double())
    nodes = mean + math.sqrt(var) * EPS  # the data are Gaussian too: the same nodes serve
    bound, probability = expected_bound(
        data.denoiser(process), nodes, EPS_WEIGHTS, process.knots[1:], variance=variance, decoder=0.1
    )
    alpha_bar = torch.cumprod(1 - process.betas, 0)
    square_errors = (var * (1 - alpha_bar) / (alpha_bar * var + 1 - alpha_bar))[1:]
    expected = closed_form(process.betas, square_errors, variance)
    assert torch.allclose(probability @ bound.terms, expected, rtol=1e-9)
    last = alpha_bar[-1]
    prior = 0.5 * (-last - torch.log(1 - last) + last * (mean**2 + var))
    assert float(probability @ bound.prior) == pytest.approx(float(prior), rel=1e-9)


@pytest.mark.parametrize("variance", VARIANCES)
def test_on_a_set_of_levels_every_term_has_its_closed_form(variance: str | float) -> None:
    process, weights = DiscreteVP.linear(12, 2e-2, 0.5), two_bumps(FEW_LEVELS)
    bound, probability = expected_bound(
        points(weights).denoiser(process), FEW_LEVELS, weights, process.knots[1:], variance=variance, num_levels=24
    )
    expected = closed_form(process.betas, mean_square_errors(weights, process)[1:], variance)
    assert torch.allclose(probability @ bound.terms, expected, rtol=1e-6)
    assert torch.equal(bound.total, bound.prior + bound.terms.sum(1) + bound.decoder)
    assert float(probability @ bound.total) > entropy(weights)
    assert float(bound.bits_per_dim(bound.total)[0]) == pytest.approx(float(bound.total[0]) / math.log(2))


@cache
def square_errors_of_1000_steps() -> Tensor:
    return mean_square_errors(two_bumps(), DiscreteVP.linear(1000))


def gap_bits(variance: str | float) -> float:
    """E bound - entropy on the two bumps at T = 1000, decoder ``snr``, in bits (one dimension)."""
    process, weights = DiscreteVP.linear(1000), two_bumps()
    denoiser = points(weights).denoiser(process)
    first, probability = expected_bound(denoiser, LEVELS, weights, process.knots[1:2], variance=variance)
    # every term is affine in the squared error, so its expectation is its value at the expected squared error
    root = square_errors_of_1000_steps()[1:].sqrt()[:, None]
    bridge = process.bridge(process.knots[1:-1], process.knots[2:])
    terms = term(bridge, root, Denoised(torch.zeros_like(root)), variance)
    assert torch.allclose(terms, closed_form(process.betas, root[:, 0] ** 2, variance), rtol=1e-8)
    end = weights @ prior_term(denoiser, LEVELS[:, None], process.knots[-1])
    nats = probability @ first.decoder + terms.sum() + end - entropy(weights)
    return float(nats) / math.log(2)


def test_the_gap_of_1000_steps_is_the_discretisations_own() -> None:
    small, large = gap_bits("beta_tilde"), gap_bits("beta")
    best = min(gap_bits(mix / 20) for mix in range(21))
    assert small == pytest.approx(0.586, abs=0.001)
    assert large == pytest.approx(0.025, abs=0.001)
    assert best == pytest.approx(0.0205, abs=0.001)


def test_its_monte_carlo_mean_agrees_with_the_quadrature() -> None:
    process, weights = DiscreteVP.linear(30, 1e-3, 0.3), two_bumps(FEW_LEVELS)
    generator = torch.Generator().manual_seed(1)
    denoiser = points(weights).denoiser(process)
    bound, probability = expected_bound(denoiser, FEW_LEVELS, weights, process.knots[1:], num_levels=24)
    expected = float(probability @ bound.total)
    x_0 = FEW_LEVELS[torch.multinomial(weights, 3000, replacement=True, generator=generator), None]

    def normal(like: Tensor, number: int) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    total = variational_bound(denoiser, x_0, process.knots[1:], normal, num_levels=24).total
    assert abs(float(total.mean()) - expected) < 4 * float(total.std()) / math.sqrt(len(total))


@pytest.mark.parametrize("process", [EDMProcess(20.0), FlowProcess(), DiscreteVP.cosine(1000)])
def test_on_any_process_the_bound_lies_above_the_entropy_and_closes_in(process) -> None:  # type: ignore[no-untyped-def]
    weights = two_bumps(FEW_LEVELS)
    totals = []
    for num_times in (8, 24):
        log_snr = torch.linspace(7.0, -6.0, num_times, dtype=torch.float64)
        bound, probability = expected_bound(
            points(weights).denoiser(process), FEW_LEVELS, weights, process.time_of_log_snr(log_snr), num_levels=24
        )
        totals.append(float(probability @ bound.total))
    assert totals[0] > totals[1] > entropy(weights)


def test_a_bound_of_one_time_has_no_terms_and_reports_how_it_was_created() -> None:
    process = FlowProcess()
    times = torch.tensor([0.01])
    bound = variational_bound(
        points(two_bumps()).denoiser(process), torch.zeros(2, 1, 2, 2)[..., :1, :1], times, lambda like, n: like * 0
    )
    assert bound.terms.shape == (2, 0)
    assert (bound.num_dims, bound.variance) == (1, "beta")
    assert torch.equal(bound.times, times.double())
    assert bound.decoder_std == pytest.approx(0.01 / 0.99, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": torch.tensor([0.0, 0.5])}, "sigma > 0"),
        ({"times": torch.tensor([0.5, 0.1])}, "ascend"),
        ({"times": torch.tensor([0.5, 0.5])}, "ascend"),
        ({"times": torch.tensor([])}, "ascend"),
        ({"variance": "gamma"}, "'gamma'"),
        ({"variance": "learned"}, "learned variance"),
        ({"decoder": "wide"}, "'wide'"),
        ({"decoder": -0.1}, "-0.1"),
        ({"variance": 1.5}, "1.5"),
    ],
)
def test_a_bound_that_makes_no_sense_is_rejected(change: dict, message: str) -> None:  # type: ignore[type-arg]
    options = {"times": torch.tensor([0.1, 0.5]), **change}
    denoiser = points(two_bumps()).denoiser(FlowProcess())
    with pytest.raises(UsageError, match=message):
        variational_bound(denoiser, torch.zeros(1, 1).double(), options.pop("times"), lambda x, n: x, **options)
