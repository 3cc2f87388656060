"""Likelihood by the probability-flow ODE against closed forms, and the bounds on it: float64, no training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_product import mostly_slow, sparse_product
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, EDMProcess, FlowProcess, RescaledProcess
from undiffuse.errors import UsageError
from undiffuse.losses.continuous import continuous_bound
from undiffuse.losses.random_bound import random_bound, term_shares
from undiffuse.losses.variational import prior_term, term, variational_bound
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, sample
from undiffuse.samplers.inversion import generate, invert, ode_range
from undiffuse.samplers.likelihood import bits_per_dim, dequantise, log_likelihood
from undiffuse.samplers.noise import SeededNoise

FINE = {"rtol": 1e-6, "atol": 1e-7}
LN2 = math.log(2)

GAUSSIAN = GaussianMixture.gaussian(torch.tensor([0.2, -0.4]).double(), torch.tensor([0.25, 0.04]).double())
MIXTURE = GaussianMixture(
    torch.tensor([[-0.5, 0.3], [0.6, -0.2], [0.0, 0.7]]),
    torch.tensor([[0.04, 0.01], [0.02, 0.03], [0.01, 0.01]]),
    torch.tensor([0.5, 0.3, 0.2]),
)
DATA = {"gaussian": GAUSSIAN, "mixture": MIXTURE}
TRIED: dict[str, Callable[[], Process]] = {**PROCESSES, "rescaled": lambda: RescaledProcess(FlowProcess(), 2.0)}

every_process = pytest.mark.parametrize("process_name", TRIED)
#: Of each kind one: discrete times, growing variance, a straight line, another parametrisation of time.
of_each_kind = pytest.mark.parametrize("process_name", mostly_slow(TRIED, "ddpm_linear", "ve", "flow", "rescaled"))


def drawn(data: GaussianMixture, num: int, seed: int = 0) -> Tensor:
    return data.sample(num, torch.Generator().manual_seed(seed))


def exact(data: GaussianMixture, x_0: Tensor, process: Process, clean: float) -> Tensor:
    """log p of y = x_t / alpha at y = x_0, where x_t is at the clean log-SNR."""
    t = process.time_of_log_snr(torch.full((len(x_0),), clean, dtype=torch.float64))
    alpha = process.alpha(t)
    return data.log_prob(alpha[:, None] * x_0, process, t) + x_0.shape[1] * torch.log(alpha)


def latent_of_gaussian(x_0: Tensor, process: Process, ends: tuple[float, float]) -> Tensor:
    """The ODE of Gaussian data keeps every coordinate's standard score: an affine map."""
    noisy, clean = process.time_of_log_snr(torch.tensor(ends, dtype=torch.float64))
    mean, var = GAUSSIAN.means[0], GAUSSIAN.variances[0]

    def spread(t: Tensor) -> Tensor:
        return (process.alpha(t) ** 2 * var + process.sigma(t) ** 2).sqrt()

    score = process.alpha(clean) * (x_0 - mean) / spread(clean)
    return (process.alpha(noisy) * mean + spread(noisy) * score) / process.start_std(float(noisy))


# --- the density ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("process_name", "data_name"), sparse_product(TRIED, DATA))
def test_with_the_exact_trace_the_mean_is_that_of_the_closed_form(process_name: str, data_name: str) -> None:
    data, process = DATA[data_name], TRIED[process_name]()
    x_0 = drawn(data, 64)
    likelihood = log_likelihood(data.denoiser(process), x_0, probes="exact", **FINE)
    difference = likelihood.nats - exact(data, x_0, process, likelihood.log_snr_range[1])
    assert abs(float(difference.mean())) / (2 * LN2) < 1e-3
    assert float(difference.abs().max()) / (2 * LN2) < 0.02  # what the signal left at the noisy end makes of a row


@of_each_kind
def test_its_only_error_is_the_prior(process_name: str) -> None:
    """With the density that the data have at the noisy end in the place of the prior, each row is exact."""
    process = TRIED[process_name]()
    x_0 = drawn(MIXTURE, 16)
    likelihood = log_likelihood(MIXTURE.denoiser(process), x_0, probes="exact", rtol=1e-7, atol=1e-8)
    noisy, clean = likelihood.log_snr_range
    t = process.time_of_log_snr(torch.full((16,), noisy, dtype=torch.float64))
    x_t = likelihood.latent * process.start_std(float(t[0]))
    end = MIXTURE.log_prob(x_t, process, t)
    assert torch.allclose(end + likelihood.delta, exact(MIXTURE, x_0, process, clean), atol=1e-4)
    assert torch.equal(likelihood.nats, likelihood.prior + likelihood.delta)
    normal = torch.distributions.Normal(0.0, torch.tensor(process.start_std(float(t[0])), dtype=torch.float64))
    assert torch.allclose(likelihood.prior, normal.log_prob(x_t).sum(1), rtol=1e-10)


def test_a_ve_process_gives_the_data_convolved_with_its_smallest_noise() -> None:
    process = PROCESSES["ve"](sigma_min=0.2)
    x_0 = drawn(MIXTURE, 64)
    likelihood = log_likelihood(MIXTURE.denoiser(process), x_0, probes="exact", **FINE)
    convolved = GaussianMixture(MIXTURE.means, MIXTURE.variances + 0.2**2, MIXTURE.weights)
    assert likelihood.time == 0
    assert float((likelihood.nats - convolved.log_prob(x_0)).mean()) == pytest.approx(0, abs=1e-3)
    assert float((convolved.log_prob(x_0) - MIXTURE.log_prob(x_0)).mean()) < -0.2


@pytest.mark.parametrize("clean", [2.0, 6.0])
def test_the_density_is_that_at_the_stated_end(clean: float) -> None:
    process, x_0 = FlowProcess(), drawn(MIXTURE, 64)
    likelihood = log_likelihood(MIXTURE.denoiser(process), x_0, probes="exact", log_snr_range=(None, clean), **FINE)
    assert likelihood.log_snr_range[1] == clean
    assert float(likelihood.nats.mean()) == pytest.approx(float(exact(MIXTURE, x_0, process, clean).mean()), abs=1e-3)


def test_heuns_method_converges_to_it() -> None:
    process, x_0 = FlowProcess(), drawn(MIXTURE, 16)
    fine = log_likelihood(MIXTURE.denoiser(process), x_0, probes="exact", rtol=1e-7, atol=1e-8)
    errors = []
    for num_steps in (60, 120):
        coarse = log_likelihood(MIXTURE.denoiser(process), x_0, probes="exact", num_steps=num_steps)
        errors.append(float((coarse.nats - fine.nats).abs().max()))
        assert coarse.nfe.tolist() == [2 * num_steps] * 16
    assert errors[1] < errors[0] / 3 < 0.2


def test_the_default_tolerance_is_good_for_five_thousandths_of_a_bit() -> None:
    process, x_0 = FlowProcess(), drawn(MIXTURE, 64)
    denoiser = MIXTURE.denoiser(process)
    default = log_likelihood(denoiser, x_0, probes="exact")
    fine = log_likelihood(denoiser, x_0, probes="exact", rtol=1e-8, atol=1e-9)
    assert float((default.nats - fine.nats).abs().mean()) / (2 * LN2) < 0.005
    assert float(default.nfe.double().mean()) < 250


# --- Hutchinson's estimate ------------------------------------------------------------------------------------------


def correlated(process: Process) -> Denoiser:
    """The exact denoiser of a Gaussian whose coordinates are correlated: its Jacobian is not diagonal."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    straight = GAUSSIAN.denoiser(process)

    class Turned(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = process

        def forward(self, x_t: Tensor, t: Tensor, cond: Any = None, evaluation: Any = None) -> Denoised:
            return Denoised(straight(x_t @ turn, t).x_0 @ turn.T)

    return Turned()


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("process_name", ["ve", "flow"])
def test_hutchinsons_estimate_is_unbiased(distribution: Any, process_name: str) -> None:
    denoiser = correlated(PROCESSES[process_name]())
    x_0, probes = drawn(MIXTURE, 64), 4
    trace = log_likelihood(denoiser, x_0, probes="exact", num_steps=30)
    estimate = log_likelihood(denoiser, x_0, probes=probes, distribution=distribution, num_steps=30)
    assert estimate.probe_variance is not None and trace.probe_variance is None
    variance, deviation = estimate.probe_variance / probes, estimate.nats - trace.nats
    error = float(variance.sum().sqrt()) / 64
    assert error > 1e-4
    assert abs(float(deviation.mean())) < 4 * error
    # the rows deviate as much as their probes say
    assert 0.4 < float((deviation**2).mean() / variance.mean()) < 2


def test_rademacher_probes_have_no_variance_where_the_covariance_is_diagonal() -> None:
    """z_i^2 = 1, so z^T J z is the trace of a diagonal J; Gaussian probes spread by 2 sum J_ii^2."""
    denoiser, x_0 = GAUSSIAN.denoiser(FlowProcess()), drawn(GAUSSIAN, 8)
    trace = log_likelihood(denoiser, x_0, probes="exact", num_steps=30)
    rademacher = log_likelihood(denoiser, x_0, probes=4, num_steps=30)
    gaussian = log_likelihood(denoiser, x_0, probes=4, distribution="gaussian", num_steps=30)
    assert torch.allclose(rademacher.nats, trace.nats, atol=1e-9)
    assert rademacher.probe_variance is not None and gaussian.probe_variance is not None
    assert float(rademacher.probe_variance.max()) < 1e-18
    assert float(gaussian.probe_variance.min()) > 1e-3


def test_gaussian_probes_spread_as_their_theory_reports() -> None:
    """On diagonal Gaussian data the estimate is sum z_i^2 d_i, d_i each coordinate's log stretch: 2 sum d_i^2."""
    process, x_0 = FlowProcess(), drawn(GAUSSIAN, 4)
    likelihood = log_likelihood(GAUSSIAN.denoiser(process), x_0, probes=200, distribution="gaussian", num_steps=12)
    noisy, clean = torch.sigmoid(torch.tensor(likelihood.log_snr_range, dtype=torch.float64))
    var = GAUSSIAN.variances[0]
    stretch = 0.5 * torch.log((noisy * var + 1 - noisy) / (clean * var + 1 - clean))
    assert likelihood.probe_variance is not None
    expected = float(2 * (stretch**2).sum())
    assert float(likelihood.probe_variance.mean()) == pytest.approx(expected, rel=0.35)


def test_a_row_depends_on_its_seed_and_not_on_its_batch() -> None:
    denoiser, x_0 = correlated(FlowProcess()), drawn(MIXTURE, 5)
    together = log_likelihood(denoiser, x_0, probes=2, noise=SeededNoise([7, 8, 9, 10, 11]))
    alone = log_likelihood(denoiser, x_0[3:4], probes=2, noise=SeededNoise([10]))
    other = log_likelihood(denoiser, x_0[3:4], probes=2, noise=SeededNoise([99]))
    assert float(together.nats[3]) == pytest.approx(float(alone.nats[0]), abs=1e-10)
    assert float(other.nats[0]) != pytest.approx(float(alone.nats[0]), abs=1e-4)
    blocked = log_likelihood(FixedBatchDenoiser(denoiser, 2), x_0, probes=2, noise=SeededNoise([7, 8, 9, 10, 11]))
    assert torch.allclose(blocked.nats, together.nats, atol=1e-10)


def test_it_works_in_inference_mode_and_leaves_no_gradients() -> None:
    scale = torch.nn.Parameter(torch.tensor(0.5))

    class Scaled(Denoiser):
        process = FlowProcess()

        def forward(self, x_t: Tensor, t: Tensor, cond: Any = None, evaluation: Any = None) -> Denoised:
            assert x_t.dtype == torch.float32
            return Denoised(scale * x_t)

    denoiser = Scaled()
    outside = log_likelihood(denoiser, torch.ones(2, 3), num_steps=5)
    with torch.inference_mode():
        inside = log_likelihood(denoiser, torch.ones(2, 3), num_steps=5)
    assert torch.equal(outside.nats, inside.nats)
    assert scale.grad is None and not outside.nats.requires_grad
    assert outside.nats.dtype == torch.float64


# --- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 256])
def test_uniform_data_on_levels_have_their_entropy(num_levels: int) -> None:
    """Density 1 / width on the union of the levels' intervals: log2 num_levels bits a dimension."""
    width = 2 / (num_levels - 1)
    nats = torch.tensor([-12 * math.log(num_levels * width)], dtype=torch.float64)
    assert float(bits_per_dim(nats, 12, num_levels)) == pytest.approx(math.log2(num_levels), rel=1e-12)


def test_256_levels_cost_the_log_of_half_their_number_of_steps() -> None:
    assert float(bits_per_dim(torch.zeros(1).double(), 784)) == pytest.approx(math.log2(127.5))
    assert float(bits_per_dim(torch.tensor([-784 * LN2]), 784)) == pytest.approx(math.log2(127.5) + 1)


def test_dequantised_data_fill_each_level_and_no_more() -> None:
    x_0 = torch.linspace(-1, 1, 256, dtype=torch.float64).expand(40, 256)
    spread = dequantise(x_0, SeededNoise(range(40)))
    offset = (spread - x_0) * 127.5
    assert float(offset.abs().max()) <= 0.5 + 1e-9
    assert float(offset.mean()) == pytest.approx(0, abs=0.01)
    assert float(offset.var()) == pytest.approx(1 / 12, rel=0.03)
    assert torch.equal(spread[5:6], dequantise(x_0[:1], SeededNoise([5])))
    assert torch.equal(((spread + 1) * 127.5).round(), ((x_0 + 1) * 127.5).round())


# --- encoding -------------------------------------------------------------------------------------------------------


@every_process
def test_the_latent_of_a_gaussian_is_an_affine_map(process_name: str) -> None:
    process = TRIED[process_name]()
    denoiser, x_0 = GAUSSIAN.denoiser(process), drawn(GAUSSIAN, 16)
    encoded = invert(denoiser, x_0, **FINE)
    assert torch.allclose(encoded.x, latent_of_gaussian(x_0, process, ode_range(denoiser)), atol=1e-4)


@of_each_kind
def test_decoding_undoes_encoding(process_name: str) -> None:
    denoiser, x_0 = MIXTURE.denoiser(TRIED[process_name]()), drawn(MIXTURE, 16)
    encoded = invert(denoiser, x_0, **FINE)
    assert torch.allclose(generate(denoiser, encoded.x, **FINE).x, x_0, atol=1e-4)
    latent = drawn(GaussianMixture(torch.zeros(1, 2), torch.ones(1)), 16)
    images = generate(denoiser, latent, **FINE).x
    assert torch.allclose(invert(denoiser, images, **FINE).x, latent, atol=1e-3)


def test_the_latent_is_where_the_likelihood_ends() -> None:
    denoiser, x_0 = MIXTURE.denoiser(PROCESSES["vp"]()), drawn(MIXTURE, 4)
    likelihood = log_likelihood(denoiser, x_0, probes="exact", rtol=1e-8, atol=1e-9)
    assert torch.allclose(likelihood.latent, invert(denoiser, x_0, rtol=1e-8, atol=1e-9).x, atol=1e-6)


def test_a_sampler_takes_a_latent_back_to_its_image() -> None:
    process, ends = PROCESSES["ve"](), (-6.0, 6.0)
    denoiser, x_0 = GAUSSIAN.denoiser(process), drawn(GAUSSIAN, 4)
    latent = invert(denoiser, x_0, log_snr_range=ends, **FINE).x
    times = process.time_of_log_snr(torch.linspace(*ends, 200, dtype=torch.float64))
    x_start = process.start_std(float(times[0])) * latent
    back = sample(denoiser, make_sampler("heun"), times, shape=(2,), seeds=range(4), x_start=x_start, finish=False)
    assert torch.allclose(back.x, x_0, atol=1e-3)  # alpha is 1


def test_unfit_options_are_rejected() -> None:
    denoiser, x_0 = GAUSSIAN.denoiser(PROCESSES["ve"]()), drawn(GAUSSIAN, 2)
    for options in (
        {"probes": 0},
        {"probes": "many"},
        {"distribution": "uniform"},
        {"num_steps": 0},
        {"log_snr_range": (None, 20.0)},
        {"log_snr_range": (5.0, -5.0)},
    ):
        with pytest.raises(UsageError):
            log_likelihood(denoiser, x_0, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="continuous bound"):
        continuous_bound(denoiser, x_0, zeros, (-math.inf, 3.0))
    with pytest.raises(UsageError, match="draw"):
        continuous_bound(denoiser, x_0, zeros, (-3.0, 3.0), num_draws=0)
    with pytest.raises(UsageError, match="'none'"):
        continuous_bound(denoiser, x_0, zeros, (-3.0, 3.0), decoder="none")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two times"):
        random_bound(denoiser, x_0, torch.tensor([0.5]), zeros)


def zeros(like: Tensor, number: int) -> Tensor:
    return torch.zeros_like(like)


def seeded(seed: int) -> Callable[[Tensor, int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda like, number: torch.randn(like.shape, dtype=like.dtype, generator=generator)


# --- the routes to one number ---------------------------------------------------------------------------------------

LOW, HIGH = -12.0, 8.0  # ends of all routes below
VAR = 0.3  # of one-dimensional Gaussian data around 0


def one_gaussian() -> GaussianMixture:
    return GaussianMixture.gaussian(torch.zeros(1).double(), torch.tensor([VAR]).double())


def entropy_at_the_clean_end() -> float:
    """Of y = x_0 + (sigma / alpha) eps, in nats."""
    return 0.5 * math.log(2 * math.pi * math.e * (VAR + math.exp(-HIGH)))


def prior_gap(process: Process) -> float:
    """KL of the marginal at the noisy end, N(0, alpha^2 v + sigma^2), from what sampling starts from."""
    t = process.time_of_log_snr(torch.tensor([LOW], dtype=torch.float64))
    ratio = float(process.alpha(t) ** 2 * VAR + process.sigma(t) ** 2) / process.start_std(float(t)) ** 2
    return 0.5 * (ratio - 1 - math.log(ratio))


@pytest.mark.parametrize("process", [FlowProcess(), EDMProcess(1e4), PROCESSES["vp"](beta_max=26.0)])
def test_with_the_exact_denoiser_ode_and_continuous_bound_meet_at_the_entropy(process: Process) -> None:
    """Both are h(y) plus the prior's KL on average over y at the clean end."""
    denoiser, num = one_gaussian().denoiser(process), 4000
    x_0 = drawn(one_gaussian(), num)
    y = x_0 + math.exp(-HIGH / 2) * torch.randn(num, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = entropy_at_the_clean_end() + prior_gap(process)
    ode = -log_likelihood(denoiser, y, probes="exact", log_snr_range=(LOW, HIGH), rtol=1e-5, atol=1e-6).nats
    bound = continuous_bound(denoiser, x_0, seeded(6), (LOW, HIGH), num_draws=16, decoder="density").total
    for nats in (ode, bound):
        assert abs(float(nats.mean()) - expected) < 4 * float(nats.std()) / math.sqrt(num)
    assert float(bound.std()) / math.sqrt(num) < 0.05


EPS = torch.arange(-8.0, 8.2, 0.4, dtype=torch.float64)
EPS_WEIGHTS = torch.softmax(-0.5 * EPS**2, 0)


def expected_parts(denoiser: Denoiser, num_draws: int) -> tuple[float, float]:
    """(the integral, the whole continuous bound) in expectation over data and noise, at the middles of the strata."""
    x_0 = (math.sqrt(VAR) * EPS).repeat_interleave(len(EPS))[:, None]
    probability = (EPS_WEIGHTS[:, None] * EPS_WEIGHTS).flatten()

    def normal(like: Tensor, number: int) -> Tensor:
        return EPS.repeat(len(EPS))[:, None] if like.shape[1] == 1 else torch.zeros_like(like)

    bound = continuous_bound(denoiser, x_0, normal, (LOW, HIGH), num_draws=num_draws, decoder="density")
    return float(probability @ bound.diffusion), float(probability @ bound.total)


def expected_ode(denoiser: Denoiser) -> float:
    """E -log p(y) over y = x_0 + (sigma / alpha) eps at the clean end; every density here is a Gaussian."""
    y = math.sqrt(VAR + math.exp(-HIGH)) * EPS[:, None]
    nats = log_likelihood(denoiser, y, probes="exact", log_snr_range=(LOW, HIGH), rtol=1e-7, atol=1e-8).nats
    return -float(EPS_WEIGHTS @ nats)


def test_the_continuous_bound_has_its_closed_form_part_by_part() -> None:
    """1/2 int v snr / (1 + v snr) d lambda = 1/2 log of the ratio of 1 + v snr at the ends."""
    process = FlowProcess()
    diffusion, total = expected_parts(one_gaussian().denoiser(process), 200)
    integral = 0.5 * math.log((1 + VAR * math.exp(HIGH)) / (1 + VAR * math.exp(LOW)))
    assert diffusion == pytest.approx(integral, rel=1e-4)
    assert total == pytest.approx(entropy_at_the_clean_end() + prior_gap(process), abs=1e-4)
    assert total == pytest.approx(expected_ode(one_gaussian().denoiser(process)), abs=1e-3)


def discrete_gap(num_terms: int, process: Process) -> tuple[float, float]:
    """(sum of the expected terms on a grid even in the log-SNR, its closed form), both less the integral."""
    log_snr = torch.linspace(HIGH, LOW, num_terms + 1, dtype=torch.float64)
    times = process.time_of_log_snr(log_snr)
    snr = torch.exp(log_snr)
    mmse = VAR / (1 + VAR * snr)
    root = mmse[1:].sqrt()[:, None]  # a term is affine in the squared error
    terms = term(process.bridge(times[:-1], times[1:]), root, Denoised(torch.zeros_like(root)), "beta_tilde")
    integral = 0.5 * math.log((1 + VAR * math.exp(HIGH)) / (1 + VAR * math.exp(LOW)))
    closed = 0.5 * ((snr[:-1] - snr[1:]) * mmse[1:]).sum()
    return float(terms.sum()) - integral, float(closed) - integral


@pytest.mark.parametrize("process", [FlowProcess(), EDMProcess(1e4)])
def test_the_discrete_bound_lies_above_by_its_closed_form_gap_which_falls_as_one_over_the_steps(
    process: Process,
) -> None:
    gaps = {num: discrete_gap(num, process) for num in (250, 500, 1000)}
    for gap, closed in gaps.values():
        assert gap == pytest.approx(closed, rel=1e-6) and gap > 0
    assert gaps[500][0] / gaps[250][0] == pytest.approx(0.5, abs=0.02)
    assert gaps[1000][0] / gaps[500][0] == pytest.approx(0.5, abs=0.01)
    # to first order: 1/4 d lambda int (v snr)^2 / (1 + v snr)^2 d lambda
    ends = [1 + VAR * math.exp(end) for end in (HIGH, LOW)]
    first_order = math.log(ends[0] / ends[1]) + 1 / ends[0] - 1 / ends[1]
    assert gaps[1000][0] == pytest.approx((HIGH - LOW) / 1000 / 4 * first_order, rel=0.02)


def test_a_denoiser_that_is_exact_for_other_data_gives_the_cross_entropy_by_both() -> None:
    """Its reverse process is the exact reversal of the other data's: the bound has no gap, whatever x_0 it is given."""
    other = GaussianMixture.gaussian(torch.tensor([0.3]).double(), torch.tensor([0.6]).double())
    denoiser, noise = other.denoiser(FlowProcess()), math.exp(-HIGH)
    cross_entropy = 0.5 * math.log(2 * math.pi * (0.6 + noise)) + (VAR + noise + 0.09) / (2 * (0.6 + noise))
    # the signal of 0.0025 that is left at the noisy end shifts the latents' mean
    assert expected_ode(denoiser) == pytest.approx(cross_entropy, abs=5e-4)
    assert expected_parts(denoiser, 200)[1] == pytest.approx(cross_entropy, abs=5e-4)


def test_for_a_denoiser_that_is_no_datas_own_the_bound_lies_above_the_ode_and_the_sum_above_it() -> None:
    class Shrunk(Denoiser):
        process = FlowProcess()

        def forward(self, x_t: Tensor, t: Tensor, cond: Any = None, evaluation: Any = None) -> Denoised:
            # right at both ends and too small between them
            exact, log_snr = one_gaussian().denoiser(self.process)(x_t, t).x_0, self.process.log_snr(t)
            return Denoised(exact * (1 - 0.5 * torch.exp(-(log_snr**2) / 8))[:, None])

    ode, continuous = expected_ode(Shrunk()), expected_parts(Shrunk(), 200)[1]
    assert entropy_at_the_clean_end() + 0.005 < ode < continuous - 0.01
    log_snr = torch.linspace(HIGH, LOW, 41, dtype=torch.float64)
    x_0 = (math.sqrt(VAR) * EPS).repeat_interleave(len(EPS))[:, None]
    probability = (EPS_WEIGHTS[:, None] * EPS_WEIGHTS).flatten()
    noise = EPS.repeat(len(EPS))[:, None]
    times = Shrunk.process.time_of_log_snr(log_snr)
    discrete = variational_bound(Shrunk(), x_0, times, lambda like, number: noise, variance="beta_tilde")
    decoder = 0.5 * math.log(2 * math.pi * math.e) - HIGH / 2
    assert float(probability @ (discrete.prior + discrete.terms.sum(1))) + decoder > continuous + 0.01


# --- a few random terms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("num_draws", [1, 3])
def test_the_expected_random_term_is_the_sum_of_all(variance: str, num_draws: int) -> None:
    """Over the whole of its one uniform number, with the noise held still, the estimate is the sum exactly."""
    process, x_0 = DiscreteVP.linear(12, 1e-3, 0.3), torch.tensor([[0.4]]).double()
    denoiser, times = one_gaussian().denoiser(process), process.knots[1:]
    whole = variational_bound(denoiser, x_0, times, zeros, variance=variance)
    count = 100_000
    within = (torch.arange(count, dtype=torch.float64) + 0.5) / count

    def normal(like: Tensor, number: int) -> Tensor:
        uniform = torch.special.ndtri(within)[:, None].expand(count, num_draws)
        return uniform if number == num_draws + 1 else torch.zeros_like(like)

    estimate = random_bound(denoiser, x_0.expand(count, 1), times, normal, num_draws=num_draws, variance=variance)
    assert estimate.terms.shape == (count, num_draws)
    assert float(estimate.terms.sum(1).mean()) == pytest.approx(float(whole.terms.sum()), rel=1e-3)
    assert float(estimate.prior[0]) == float(whole.prior[0])
    assert float(estimate.decoder[0]) == float(whole.decoder[0])
    assert estimate.decoder_std == whole.decoder_std


def test_shares_of_the_terms_are_shares_of_the_log_snr() -> None:
    process = FlowProcess()
    times = torch.cat([process.time_of_log_snr(torch.tensor([4.0, 1.0, 0.0])), torch.ones(1)])
    assert term_shares(process, times).tolist() == pytest.approx([3 / 5, 1 / 5, 1 / 5])


# --- the two fixed variances ----------------------------------------------------------------------------------------


def gap_of_terms(data: GaussianMixture, x_0: Tensor, variance: str, process: Process) -> float:
    """What the terms cost above the exact reverse step, in expectation: 0 where the variance is the right one."""
    s, t = process.knots[1:-1], process.knots[2:]  # type: ignore[index]
    bridge = process.bridge(s, t)
    var = float(data.variances[0, 0])
    alpha, sigma = process.alpha(t), process.sigma(t)
    root = (var * sigma**2 / (alpha**2 * var + sigma**2)).sqrt()[:, None]  # E (x_0 - x_0-hat)^2
    cost = term(bridge, root, Denoised(torch.zeros_like(root)), variance)
    # the exact step q(x_s | x_t) has variance bridge.var + c_0^2 mmse; its own expected divergence is this
    true = bridge.var + bridge.c_0**2 * root[:, 0] ** 2
    return float((cost - 0.5 * torch.log(true / bridge.var)).abs().max())


def test_beta_is_exact_for_standard_normal_data_and_beta_tilde_for_a_point() -> None:
    process, x = DiscreteVP.linear(50), torch.zeros(1, 1)
    normal = GaussianMixture.gaussian(torch.zeros(1), torch.ones(1))
    point = GaussianMixture.gaussian(torch.tensor([0.7]), torch.zeros(1))
    assert gap_of_terms(normal, x, "beta", process) < 1e-12
    assert gap_of_terms(normal, x, "beta_tilde", process) > 1e-3
    assert gap_of_terms(point, x, "beta_tilde", process) < 1e-12
    assert gap_of_terms(point, x, "beta", process) > 1e-3


@pytest.mark.parametrize(("variance", "var"), [("beta", 1.0), ("beta_tilde", 0.0)])
def test_ancestral_sampling_keeps_every_marginal_where_its_variance_is_exact(variance: str, var: float) -> None:
    """One step maps N(alpha_t m, alpha_t^2 v + sigma_t^2) to the same at s; the other variance does not."""
    process, mean = DiscreteVP.linear(20), 0.0 if var else 0.7
    s, t = process.knots[:-1], process.knots[1:]
    bridge, data = process.bridge(s, t), GaussianMixture.gaussian(torch.tensor([mean]), torch.tensor([var]))
    marginal = process.alpha(t) ** 2 * var + process.sigma(t) ** 2
    ends = torch.stack([torch.zeros_like(t), torch.ones_like(t)])[..., None]
    low, high = (bridge.c_t * x[:, 0] + bridge.c_0 * data.posterior_mean(x, process, t)[:, 0] for x in ends)
    added = {"beta": bridge.var_max, "beta_tilde": bridge.var}
    expected = process.alpha(s) ** 2 * var + process.sigma(s) ** 2
    assert torch.allclose((high - low) ** 2 * marginal + added[variance], expected, atol=1e-12)
    assert torch.allclose(low + (high - low) * process.alpha(t) * mean, process.alpha(s) * mean, atol=1e-12)
    other = added["beta" if variance == "beta_tilde" else "beta_tilde"]
    assert not torch.allclose((high - low) ** 2 * marginal + other, expected, atol=1e-5)


def test_the_prior_term_takes_a_deviation() -> None:
    denoiser, x_0, t = GAUSSIAN.denoiser(FlowProcess()), torch.zeros(1, 2), torch.tensor(0.5).double()
    expected = 2 * 0.5 * (0.25 - 1 - math.log(0.25)) * torch.ones(1).double()
    assert torch.allclose(prior_term(denoiser, x_0, t), expected)
    assert float(prior_term(denoiser, x_0, t, 0.5)) == pytest.approx(0, abs=1e-12)
