"""What must hold for every process: everything derived agrees with the pair (alpha, sigma) it is derived from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes_to_try import PROCESSES_TO_TRY, Warped, away_from_knots, processes, smallest_log_snr, times
from torch import Tensor

from sparse_product import sparse_product
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import (
    PROCESSES,
    VESDE,
    VPSDE,
    CosineProcess,
    DiscreteVP,
    EDMProcess,
    FlowProcess,
    GeometricVE,
    RescaledProcess,
    SubVPSDE,
)
from undiffuse.errors import UsageError
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.base import sample

quick = settings(max_examples=40, deadline=None)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
#: Processes that add noise at t = 0 already.
KNOWN_SIGMA_MIN = {"ve": 0.01}


def slope(function, t: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    leaf = t.clone().requires_grad_()
    value = function(leaf)
    return torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(t)


def close(a: Tensor, b: Tensor, rtol: float = 1e-9, atol: float = 1e-12) -> bool:
    return bool(torch.allclose(a, b, rtol=rtol, atol=atol))


@quick
@given(processes, times(size=8))
def test_log_snr_falls_strictly(process: Process, t: Tensor) -> None:
    t = torch.unique((t * 1e6).round()) / 1e6
    log_snr = process.log_snr(t)
    assert log_snr.dtype == torch.float64
    assert bool((log_snr.diff() < 0).all())
    assert not bool(log_snr.isnan().any())


@quick
@given(processes, times(1e-9, 1 - 1e-9))
def test_log_snr_is_that_of_the_pair(process: Process, t: Tensor) -> None:
    # sigma is formed by a subtraction from 1 in some processes: the digits lost there are not log_snr's
    expected = 2 * torch.log(process.alpha(t) / process.sigma(t))
    assert close(process.log_snr(t), expected, rtol=1e-8, atol=1e-8)


@quick
@given(processes, times(1e-6, 1.0))
def test_time_of_log_snr_is_the_inverse(process: Process, t: Tensor) -> None:
    assert close(process.time_of_log_snr(process.log_snr(t)), t, atol=1e-9)


@quick
@given(processes, times())
def test_log_snr_is_the_inverse_of_its_inverse(process: Process, u: Tensor) -> None:
    low = smallest_log_snr(process)
    log_snr = low + u * (min(float(process.log_snr(ENDS[:1])), 25.0) - low)
    assert close(process.log_snr(process.time_of_log_snr(log_snr)), log_snr, atol=1e-8)


@pytest.mark.parametrize("name", PROCESSES_TO_TRY)
def test_infinite_log_snr_is_exactly_an_end(name: str) -> None:
    ends = PROCESSES_TO_TRY[name].time_of_log_snr(torch.tensor([math.inf, -math.inf]))
    assert ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", PROCESSES_TO_TRY)
def test_values_at_the_ends(name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    assert process.alpha(ENDS)[0] == 1
    least = KNOWN_SIGMA_MIN.get(name, 0.0)
    assert float(process.sigma(ENDS)[0]) == least
    assert process.log_snr(ENDS)[0] == pytest.approx(-2 * math.log(least) if least else math.inf)
    assert process.prior_std > 0
    assert float(process.sigma(ENDS)[1]) == pytest.approx(process.prior_std, rel=0.5)


@quick
@given(processes, times(0.01, 0.97))
def test_rates_drift_and_diffusion_follow_from_the_pair(process: Process, t: Tensor) -> None:
    t = away_from_knots(t)
    d_alpha, d_sigma = process.rates(t)
    assert close(d_alpha, slope(process.alpha, t))
    assert close(d_sigma, slope(process.sigma, t))
    d_log_alpha = slope(lambda t: torch.log(process.alpha(t)), t)
    assert close(process.d_log_alpha(t), d_log_alpha)
    g2 = slope(lambda t: process.sigma(t) ** 2, t) - 2 * d_log_alpha * process.sigma(t) ** 2
    assert close(process.diffusion2(t), g2, rtol=1e-8)
    x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    assert close(process.drift(x, t), d_log_alpha[:, None] * x)


def test_the_cosine_schedule_is_equation_17_of_nichol() -> None:
    process = DiscreteVP.cosine(100)
    f = torch.cos((process.knots + 0.008) / 1.008 * math.pi / 2) ** 2
    assert close(process.alpha(process.knots[:-1]) ** 2, (f / f[0])[:-1])
    assert float(process.betas[-1]) == 0.999  # clipped: the last f is 0
    assert float(DiscreteVP.cosine(100, beta_max=0.5).betas.max()) == 0.5


@quick
@given(processes, times())
def test_norm_is_the_deviation_of_data_of_unit_variance(process: Process, t: Tensor) -> None:
    assert close(process.norm(t) ** 2, process.alpha(t) ** 2 + process.sigma(t) ** 2)


def test_the_continuous_cosine_is_the_limit_of_chains() -> None:
    process, t = CosineProcess(), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert close(process.log_snr(t), -2 * torch.log(torch.tan(math.pi / 2 * t)))
    assert process.alpha(ENDS).tolist() == [1, 0] and process.sigma(ENDS).tolist() == [0, 1]
    chain = DiscreteVP.cosine(1000, offset=0.0, beta_max=1 - 1e-9)
    assert close(process.alpha(chain.knots[1:-1]), chain.alpha(chain.knots[1:-1]))


def test_the_linear_schedule_and_its_defaults() -> None:
    betas = DiscreteVP.linear().betas
    assert len(betas) == DiscreteVP.linear().num_steps == 1000
    assert close(betas[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))
    assert close(betas.diff(), betas.diff()[:1].expand(999), rtol=1e-6)


def test_the_levels_of_a_noise_conditional_network_are_geometric() -> None:
    process = GeometricVE(10, 0.01, 1.0)
    levels = process.sigma(process.knots)
    assert levels[0] == 0
    assert close(levels[1:], torch.logspace(-2, 0, 10, dtype=torch.float64))
    assert process.prior_std == pytest.approx(1.0)


@quick
@given(times(0.0, 1.0))
def test_ve_and_vp_are_one_process_up_to_scale(t: Tensor) -> None:
    # SEEDS: sqrt(alpha-bar) = 1 / sqrt(1 + sigma^2), sqrt(1 - alpha-bar) = sigma / sqrt(1 + sigma^2)
    ve, vp = VESDE(), VPSDE()
    at = vp.time_of_log_snr(ve.log_snr(t))
    norm = torch.sqrt(1 + ve.sigma(t) ** 2)
    assert close(vp.alpha(at), 1 / norm, rtol=1e-8)
    assert close(vp.sigma(at), ve.sigma(t) / norm, rtol=1e-8)


def test_drift_and_diffusion_in_closed_form() -> None:
    t = torch.tensor([0.001, 0.3, 0.9], dtype=torch.float64)
    one = torch.ones(3, 1, dtype=torch.float64)
    beta = 0.1 + t * 19.9
    assert close(VPSDE().drift(one, t)[:, 0], -beta / 2)
    assert close(VPSDE().diffusion2(t), beta)
    assert close(EDMProcess(80.0).drift(one, t)[:, 0], 0 * t)
    assert close(EDMProcess(80.0).diffusion2(t), 2 * 80.0**2 * t)
    log_alpha = -0.05 * t - 19.9 * t**2 / 4
    assert close(SubVPSDE().drift(one, t)[:, 0], -beta / 2)
    assert close(SubVPSDE().diffusion2(t), beta * (1 - torch.exp(4 * log_alpha)), rtol=1e-8)
    assert close(VESDE().drift(one, t)[:, 0], 0 * t)
    assert close(VESDE().diffusion2(t), 2 * math.log(5000) * (0.01 * 5000**t) ** 2)
    assert close(FlowProcess().drift(one, t)[:, 0], -1 / (1 - t))
    assert close(FlowProcess().diffusion2(t), 2 * t / (1 - t))


@quick
@given(st.sampled_from([name for name, process in PROCESSES_TO_TRY.items() if hasattr(process, "log_alpha")]), times())
def test_variance_preserving_means_what_it_reports(name: str, t: Tensor) -> None:
    process = PROCESSES_TO_TRY[name]
    assert close(process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t))
    assert process.prior_std == 1


@quick
@given(processes, times())
def test_values_do_not_depend_on_the_dtype_of_their_consumer(process: Process, t: Tensor) -> None:
    t = t.float()
    for function in (process.alpha, process.sigma, process.log_snr):
        assert function(t).dtype == torch.float64
        assert close(function(t), function(t.double()))


# --- the bridge -----------------------------------------------------------------------------------------------------


@quick
@given(processes, times(1e-4, 1.0), times(), times())
def test_bridges_compose(process: Process, t: Tensor, v: Tensor, w: Tensor) -> None:
    u, s = t * v, t * v * w
    whole, late, early = process.bridge(s, t), process.bridge(u, t), process.bridge(s, u)
    assert close(whole.alpha_ts, late.alpha_ts * early.alpha_ts)
    assert close(whole.var_max, late.alpha_ts**2 * early.var_max + late.var_max, rtol=1e-7)
    # x_t -> x_u -> x_s, given x_0, is x_t -> x_s
    assert close(whole.c_t, early.c_t * late.c_t, rtol=1e-7)
    assert close(whole.c_0, early.c_t * late.c_0 + early.c_0, rtol=1e-7)
    assert close(whole.var, early.c_t**2 * late.var + early.var, rtol=1e-7)


@quick
@given(processes, times(1e-4, 1.0), times())
def test_the_bridge_leads_from_marginal_to_marginal(process: Process, t: Tensor, v: Tensor) -> None:
    s = t * v
    bridge = process.bridge(s, t)
    # forwards: q(x_t | x_s) carries q(x_s | x_0) to q(x_t | x_0)
    assert close(bridge.alpha_ts * process.alpha(s), process.alpha(t))
    assert close(bridge.alpha_ts**2 * process.sigma(s) ** 2 + bridge.var_max, process.sigma(t) ** 2, rtol=1e-8)
    # backwards: q(x_s | x_t, x_0) carries it back
    assert close(bridge.c_t * process.alpha(t) + bridge.c_0, process.alpha(s), rtol=1e-8)
    assert close(bridge.c_t**2 * process.sigma(t) ** 2 + bridge.var, process.sigma(s) ** 2, rtol=1e-8)
    assert bool((bridge.var >= 0).all() and (bridge.var_max >= 0).all())


@pytest.mark.parametrize("name", PROCESSES_TO_TRY)
def test_the_bridge_is_finite_at_both_ends(name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    s = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 1e-9], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 1.0, 0.5, 1.0, 0.5, 1.0], dtype=torch.float64)
    bridge = process.bridge(s, t)
    assert all(bool(entry.isfinite().all()) for entry in bridge)
    same = s == t
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for entry, expected in zip(bridge, (one, zero, one, zero, zero), strict=True):
        assert torch.equal(entry[same], expected)
    if name not in KNOWN_SIGMA_MIN:  # all the way back is x_0 itself
        assert close(bridge.c_0[s == 0][1:], torch.ones(2, dtype=torch.float64))
        assert close(bridge.var[s == 0][1:], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("make", [DiscreteVP.linear, DiscreteVP.cosine])
def test_neighbouring_knots_keep_their_digits(make) -> None:  # type: ignore[no-untyped-def]
    process = make(1000)
    bridge = process.bridge(process.knots[:-1], process.knots[1:])
    assert close(bridge.var_max, process.betas, rtol=1e-9)


# --- time is a label ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power", "name", "spec"),
    sparse_product(
        [0.5, 2.0],
        ["vp", "edm", "flow", "ddpm_linear"],
        [*SAMPLERS, "ddim:eta=0.5", "ancestral:variance=beta"],
        every=2,
    ),
)
def test_rescaling_time_changes_no_sample(spec: str, name: str, power: float) -> None:
    data, process = GaussianMixture.ring(5), PROCESSES[name]()
    warped = Warped(process, power)
    steps = torch.linspace(1, 0, 7, dtype=torch.float64)
    results = [
        sample(data.denoiser(p), make_sampler(spec), grid, shape=(2,), seeds=[1, 2, 3], dtype=torch.float64).x
        for p, grid in ((process, steps), (warped, steps ** (1 / power)))
    ]
    assert close(results[0], results[1], rtol=1e-8, atol=1e-9)


@quick
@given(times(0.01, 1.0), st.floats(0.1, 10))
def test_a_stretched_process_is_the_same_for_stretched_data(t: Tensor, scale: float) -> None:
    base = FlowProcess()
    stretched = RescaledProcess(base, scale)
    assert close(stretched.alpha(t), base.alpha(t))
    assert close(stretched.sigma(t), scale * base.sigma(t))
    assert close(stretched.bridge(t / 2, t).c_t, base.bridge(t / 2, t).c_t)
    assert stretched.prior_std == pytest.approx(scale * base.prior_std)


def test_diffuse_mixes_row_by_row() -> None:
    process, t = FlowProcess(), torch.tensor([0.25, 1.0])
    x_0, eps = torch.full((2, 1, 2, 2), 4.0), torch.ones(2, 1, 2, 2)
    x_t = process.diffuse(x_0, eps, t)
    assert x_t.dtype == torch.float32
    assert x_t[:, 0, 0, 0].tolist() == [3.25, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscreteVP([]), "betas"),
        (lambda: DiscreteVP([0.1, 1.0]), "betas"),
        (lambda: DiscreteVP([0.0, 0.1]), "betas"),
        (lambda: DiscreteVP([[0.1]]), "betas"),  # type: ignore[list-item]
        (lambda: DiscreteVP([math.nan]), "betas"),
        (lambda: DiscreteVP.linear(0), "num_steps"),
        (lambda: DiscreteVP.cosine(-3), "num_steps"),
        (lambda: DiscreteVP.linear(100_001), "100,000"),
        (lambda: DiscreteVP.cosine(10, offset=-1), "offset"),
        (lambda: DiscreteVP.cosine(10, beta_max=2), "beta_max"),
        (lambda: VPSDE(0.0, 1.0), "beta_min"),
        (lambda: VPSDE(3.0, 1.0), "beta_min"),
        (lambda: SubVPSDE(3.0, 1.0), "beta_min"),
        (lambda: VESDE(0.0, 1.0), "sigma_min"),
        (lambda: VESDE(2.0, 1.0), "sigma_min"),
        (lambda: GeometricVE(1), "num_steps"),
        (lambda: GeometricVE(10, 1.0, 1.0), "sigma_min"),
        (lambda: EDMProcess(0.0), "sigma_max"),
        (lambda: RescaledProcess(FlowProcess(), -1.0), "scale"),
    ],
)
def test_senseless_options_are_rejected(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        make()
