"""Every row of the parameterization table on every process, and denoisers made of functions written elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes_to_try import PROCESSES_TO_TRY, away_from_knots, times
from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import (
    TIME_LABELS,
    ClippedDenoiser,
    Denoised,
    Denoiser,
    NetworkDenoiser,
    TransferredDenoiser,
)
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.parameterization import PARAMETERIZATIONS, Parameterization, eps_of, score_of
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, EDMProcess, FlowProcess
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.samplers.base import CountingDenoiser, FixedBatchDenoiser
from undiffuse.samplers.grids import GRIDS, time_grid

quick = settings(max_examples=60, deadline=None)


def allowed(row: str, process: Process) -> bool:
    """``flow`` has no velocity at a chain's knots; ``posterior_mean`` needs a chain."""
    discrete = process.num_steps is not None
    return {"flow": not discrete, "posterior_mean": discrete}.get(row, True)


PAIRS = [
    (row, name) for row in PARAMETERIZATIONS for name, process in PROCESSES_TO_TRY.items() if allowed(row, process)
]
T = torch.tensor([0.02, 0.1, 0.35, 0.5, 0.8, 0.95], dtype=torch.float64)


def data(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """x_0 and eps, (6, 2, 3) each."""
    x_0, eps = torch.randn(2, 6, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x_0, eps


@quick
@given(st.sampled_from(PAIRS), times(0.01, 0.97), st.integers(0, 99))
def test_the_right_answer_gives_back_x_0(pair: tuple[str, str], t: Tensor, seed: int) -> None:
    row, process = pair[0], PROCESSES_TO_TRY[pair[1]]
    t, (x_0, eps) = away_from_knots(t), data(seed)
    bound = Parameterization(row, process)
    x_t = process.diffuse(x_0, eps, t)
    assert torch.allclose(bound.x_0(bound.target(x_0, eps, t), x_t, t), x_0, rtol=1e-7, atol=1e-7)


@quick
@given(st.sampled_from(PAIRS), st.sampled_from(PAIRS), st.integers(0, 99))
def test_outputs_convert_between_rows(one: tuple[str, str], other: tuple[str, str], seed: int) -> None:
    process = PROCESSES_TO_TRY[one[1]]
    if not allowed(other[0], process):
        return
    x_t, output = data(seed)
    x_0 = Parameterization(one[0], process).x_0(output, x_t, T)  # what a network, right or wrong, believes
    eps = eps_of(process, x_t, x_0, T)
    second = Parameterization(other[0], process)
    there = second.target(x_0, eps, T)
    assert torch.allclose(second.x_0(there, x_t, T), x_0, rtol=1e-6, atol=1e-6)
    back = Parameterization(one[0], process).target(x_0, eps, T)
    assert torch.allclose(back, output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PROCESSES_TO_TRY)
def test_targets_are_what_their_names_report(name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    x_0, eps = data()
    alpha, sigma = per_row(process.alpha(T), x_0), per_row(process.sigma(T), x_0)

    def target(row: str) -> Tensor:
        return Parameterization(row, process).target(x_0, eps, T)

    assert torch.equal(target("x0"), x_0)
    assert torch.equal(target("eps"), eps)
    assert torch.allclose(target("v"), alpha * eps - sigma * x_0)
    assert torch.allclose(target("score"), -eps / sigma)
    if allowed("flow", process):
        d_alpha, d_sigma = process.rates(T)
        assert torch.allclose(target("flow"), per_row(d_alpha, x_0) * x_0 + per_row(d_sigma, x_0) * eps)


def test_the_straight_path_has_the_straight_velocity() -> None:
    x_0, eps = data()
    assert torch.allclose(Parameterization("flow", FlowProcess()).target(x_0, eps, T), eps - x_0)


def test_the_edm_row_is_table_1_of_karras() -> None:
    sigma, sigma_data = 80 * T, 0.5
    row = Parameterization("edm", EDMProcess(80.0))(T)
    root = (sigma**2 + sigma_data**2).sqrt()
    assert torch.allclose(row.c_skip, sigma_data**2 / root**2)
    assert torch.allclose(row.c_out, sigma * sigma_data / root)
    assert torch.allclose(row.c_in, 1 / root)
    assert torch.allclose(row.c_noise, sigma.log() / 4)


@pytest.mark.parametrize("name", PROCESSES_TO_TRY)
def test_the_edm_row_sees_and_reports_unit_variance(name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    row = Parameterization("edm", process)(T)
    input_variance = row.c_in**2 * (process.alpha(T) ** 2 * 0.25 + process.sigma(T) ** 2)
    output_variance = row.target_x0**2 * 0.25 + row.target_eps**2
    assert torch.allclose(input_variance, torch.ones_like(T))
    assert torch.allclose(output_variance, torch.ones_like(T))


def test_the_posterior_mean_row_is_equation_7_of_ho() -> None:
    process = DiscreteVP.linear(50)
    k = torch.tensor([2, 3, 10, 30, 49, 50])
    beta = process.betas[k - 1]
    alpha_bar = torch.cumprod(1 - process.betas, 0)
    before, after = alpha_bar[k - 2], alpha_bar[k - 1]
    x_0, eps = data()
    x_t = process.diffuse(x_0, eps, k / 50)
    expected = per_row(before.sqrt() * beta / (1 - after), x_0) * x_0
    expected = expected + per_row((1 - beta).sqrt() * (1 - before) / (1 - after), x_0) * x_t
    assert torch.allclose(Parameterization("posterior_mean", process).target(x_0, eps, k / 50), expected)


@pytest.mark.parametrize(
    ("row", "name"), [("posterior_mean", "vp"), ("posterior_mean", "flow"), ("flow", "ddpm_linear")]
)
def test_rows_that_make_no_sense_on_a_process_are_rejected(row: str, name: str) -> None:
    with pytest.raises(UsageError, match=row):
        Parameterization(row, PROCESSES_TO_TRY[name])


def test_an_unknown_row_is_rejected_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'eps'"):
        Parameterization("epps", FlowProcess())


def test_score_of_is_the_gradient_of_the_density() -> None:
    mixture, process = GaussianMixture.ring(5, std=0.2), PROCESSES["vp"]()
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, process, T).sum(), x)
    x = x.detach()
    assert torch.allclose(score_of(process, x, mixture.posterior_mean(x, process, T), T), gradient, rtol=1e-7)
    assert torch.allclose(mixture.score(x, process, T), gradient, rtol=1e-9)


def test_a_mixture_knows_its_moments_and_samples_from_itself() -> None:
    mixture = GaussianMixture(
        torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([0.5, 0.1]), torch.tensor([1.0, 3.0])
    )
    assert mixture.mean.tolist() == pytest.approx([1.5, -0.5])
    assert mixture.variance.tolist() == pytest.approx([0.2 + 0.75, 0.2 + 0.75])
    draws = mixture.sample(20000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), mixture.mean, atol=4 * (0.95 / 20000) ** 0.5)
    assert torch.allclose(draws.var(0), mixture.variance, rtol=0.05)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    plane = GaussianMixture(torch.tensor([[0.3], [-1.0]]), torch.tensor([0.04, 2.0]))
    assert float(torch.exp(plane.log_prob(x[:, None])).sum() * 24 / 4000) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3, 1), torch.zeros(2)),
        (torch.zeros(2, 1), -torch.ones(2)),
        (torch.zeros(2, 1), torch.ones(2), torch.zeros(2)),
        (torch.zeros(2, 1), torch.ones(2), torch.tensor([-1.0, 2.0])),
    ],
)
def test_a_mixture_that_is_none_is_rejected(options: tuple[Tensor, ...]) -> None:
    with pytest.raises(UsageError):
        GaussianMixture(*options)


# --- weights --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A network that says the same whatever it is shown."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        assert c_noise.shape == (len(x),)
        return self.output


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("row", "name"), [pair for pair in PAIRS if pair[1] in PROCESSES])
def test_a_weight_on_x_0_means_the_same_under_every_row(row: str, name: str, weighting: str) -> None:
    process, log_weight = PROCESSES_TO_TRY[name], WEIGHTINGS[weighting]()
    x_0, eps = data()
    denoiser = NetworkDenoiser(Fixed(data(1)[0]), Parameterization(row, process))
    loss = denoising_loss(denoiser, x_0, eps, T, log_weight)
    x_0_hat = denoiser(process.diffuse(x_0, eps, T), T).x_0
    expected = torch.exp(log_weight(process, T)) * ((x_0 - x_0_hat) ** 2).flatten(1).mean(1)
    assert torch.allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(("row", "weighting"), [("eps", "simple"), ("x0", "uniform"), ("edm", "edm")])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_plain_error_of_a_row_has_its_own_weighting(row: str, weighting: str, name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    weight = Parameterization(row, process).output_weight(WEIGHTINGS[weighting]()(process, T), T)
    assert torch.allclose(weight, torch.ones_like(T))


def test_the_plain_errors_of_v_and_of_the_velocity() -> None:
    v = Parameterization("v", PROCESSES_TO_TRY["vp"])
    assert torch.allclose(v.output_weight(WEIGHTINGS["velocity"]()(v.process, T), T), torch.ones_like(T))
    flow = Parameterization("flow", FlowProcess())
    assert torch.allclose(flow.output_weight(WEIGHTINGS["flow"]()(flow.process, T), T), torch.ones_like(T))


@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine", "ncsn"])
def test_the_plain_error_of_the_posterior_mean_has_its_own_weighting(name: str) -> None:
    process = PROCESSES_TO_TRY[name]
    assert process.num_steps is not None
    numbers = torch.tensor([2, 7, process.num_steps // 2, process.num_steps - 1], dtype=torch.float64)
    knots = numbers / process.num_steps
    weight = WEIGHTINGS["posterior_mean"]()(process, knots)
    row = Parameterization("posterior_mean", process)
    assert torch.allclose(row.output_weight(weight, knots), torch.ones(4, dtype=torch.float64))


def test_the_weight_of_the_posterior_mean_without_steps_is_the_limit_of_fine_chains() -> None:
    process, t, short = PROCESSES_TO_TRY["vp"], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 1e-5
    weight = WEIGHTINGS["posterior_mean"]()(process, t)
    c_0 = process.bridge(t - short, t).c_0 / short
    assert torch.allclose(torch.exp(weight), c_0**2, rtol=1e-3)


def test_a_loss_is_finite_at_both_ends_in_float32() -> None:
    t = torch.tensor([1e-6, 1e-3, 1.0, 1.0, 0.5, 1.0])
    x_0, eps = data(dtype=torch.float32)
    for row, name in [("eps", "ddpm_cosine"), ("v", "ddpm_cosine"), ("flow", "flow"), ("edm", "edm"), ("x0", "vp")]:
        denoiser = NetworkDenoiser(Fixed(torch.zeros_like(x_0)), Parameterization(row, PROCESSES_TO_TRY[name]))
        weighting = {"x0": "uniform", "flow": "flow", "edm": "edm", "v": "velocity"}.get(row, "simple")
        loss = denoising_loss(denoiser, x_0, eps, t, WEIGHTINGS[weighting]())
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite().all()), (row, name)


@quick
@given(st.sampled_from(sorted(PROCESSES)), times(0.01, 0.98), st.floats(0.1, 30), st.floats(-3, 3))
def test_weightings_in_closed_form(name: str, t: Tensor, gamma: float, bias: float) -> None:
    process = PROCESSES_TO_TRY[name]
    snr = process.alpha(t) ** 2 / process.sigma(t) ** 2

    def weight(row: str, **options: float) -> Tensor:
        return torch.exp(WEIGHTINGS[row](**options)(process, t))

    assert torch.allclose(weight("simple"), snr)
    assert torch.allclose(weight("uniform"), torch.ones_like(t))
    assert torch.allclose(weight("velocity"), snr + 1)
    assert torch.allclose(weight("min_snr", gamma=gamma), snr.clamp(max=gamma))
    assert torch.allclose(weight("edm", data_std=gamma), (1 / snr + gamma**2) * snr / gamma**2)
    assert torch.allclose(weight("flow"), (1 + snr.sqrt()) ** 2)
    assert torch.allclose(weight("sigmoid", bias=bias), snr * torch.sigmoid(bias - snr.log()))


@pytest.mark.parametrize("make", [DiscreteVP.linear, DiscreteVP.cosine])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_variational_weight_on_eps_is_equation_12_of_ho(make, variance: str) -> None:  # type: ignore[no-untyped-def]
    process = make(100)
    t, beta = process.knots[1:], process.betas
    after = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), after[:-1]])
    sigma2 = beta if variance == "beta" else (1 - before) / (1 - after) * beta
    sigma2 = torch.cat([sigma2[:1] if variance == "beta" else sigma2[1:2], sigma2[1:]])
    expected = beta**2 / (2 * sigma2 * (1 - beta) * (1 - after))
    weight = Parameterization("eps", process).output_weight(WEIGHTINGS["variational"](variance)(process, t), t)
    assert torch.allclose(weight, expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_without_steps_the_variational_weight_is_half_the_fall_of_snr(name: str) -> None:
    process, step = PROCESSES_TO_TRY[name], 1e-5
    fall = torch.exp(process.log_snr(T - step)) - torch.exp(process.log_snr(T + step))
    weight = torch.exp(WEIGHTINGS["variational"]()(process, T))
    assert torch.allclose(weight, fall / (4 * step), rtol=1e-5)


@pytest.mark.parametrize(("row", "options"), [("min_snr", {"gamma": 0.0}), ("variational", {"variance": "learned"})])
def test_senseless_weightings_are_rejected(row: str, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        WEIGHTINGS[row](**options)


# --- denoisers of functions written elsewhere -----------------------------------------------------------------------

LABELS_BACK = {
    "t": lambda process, label: label,
    "index0": lambda process, label: (label + 1) / process.num_steps,
    "index1": lambda process, label: label / process.num_steps,
    "sigma": lambda process, label: process.time_of_log_snr(-2 * torch.log(label)),
    "log_sigma": lambda process, label: process.time_of_log_snr(-2 * label),
}


@pytest.mark.parametrize("label", TIME_LABELS)
@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("row", PARAMETERIZATIONS)
def test_a_wrapped_function_is_the_native_denoiser(label: str, value_range: tuple[float, float], row: str) -> None:
    author: Process = FlowProcess() if row == "flow" else DiscreteVP.linear(100)
    if row == "flow" and label.startswith("index"):
        with pytest.raises(UsageError, match="num_steps"):
            Denoiser.wrap(torch.zeros_like, author, "x0", time_label=label)
        return
    low, high = value_range
    half = (high - low) / 2
    mixture = GaussianMixture.ring(5, std=0.3)
    own = GaussianMixture((mixture.means + 1) * half + low, mixture.variances * half**2)
    bound = Parameterization(row, author)

    def function(y: Tensor, said: Tensor) -> Tensor:
        t = LABELS_BACK[label](author, said)
        y_t = y / per_row(bound(t).c_in, y)
        y_0 = own.posterior_mean(y_t, author, t)
        return bound.target(y_0, eps_of(author, y_t, y_0, t), t)

    wrapped = Denoiser.wrap(function, author, row, time_label=label, value_range=value_range, log_snr_range=(-4.0, 6.0))
    t = torch.tensor([0.02, 0.1, 0.37, 0.5, 0.8, 1.0 if row != "flow" else 0.9], dtype=torch.float64)
    x_t = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 / half
    native = mixture.denoiser(wrapped.process)
    assert torch.allclose(wrapped(x_t, t).x_0, native(x_t, t).x_0, rtol=1e-6, atol=1e-7)
    shift = math.log(1 / half) * 2  # SNR of data half as wide is a quarter
    assert wrapped.log_snr_range == pytest.approx((-4.0 - shift, 6.0 - shift))


def test_a_wrapped_function_may_take_a_condition() -> None:
    def function(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert cond.label is not None
        return x * 0 + cond.label[:, None]

    wrapped = Denoiser.wrap(function, FlowProcess(), "x0")
    cond = Condition(label=torch.tensor([3, 1]))
    assert wrapped(torch.zeros(2, 1), torch.tensor([0.5, 0.5]), cond).x_0.tolist() == [[3], [1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_range": (1.0, 0.0)}, "value_range"),
        ({"time_label": "indx0"}, "'index0'"),
        ({"parameterization": "velocity"}, "parameterization"),
    ],
)
def test_a_wrapping_that_makes_no_sense_is_rejected(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        Denoiser.wrap(torch.zeros_like, FlowProcess(), **options)


@pytest.mark.parametrize("of", PROCESSES_TO_TRY)
@pytest.mark.parametrize("to", PROCESSES_TO_TRY)
def test_a_denoiser_moves_between_processes(of: str, to: str) -> None:
    p, q = PROCESSES_TO_TRY[of], PROCESSES_TO_TRY[to]
    mixture = GaussianMixture.ring(7, std=0.2)
    low = max(float(process.log_snr(torch.ones(1))) for process in (p, q))
    t = q.time_of_log_snr(torch.linspace(max(low, -12.0) + 1e-3, 9.0, 6, dtype=torch.float64))
    x_t = per_row(q.sigma(t) + q.alpha(t), T[:, None]) * torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    moved = TransferredDenoiser(mixture.denoiser(p), q)
    assert moved.process is q
    assert torch.allclose(moved(x_t, t).x_0, mixture.denoiser(q)(x_t, t).x_0, rtol=1e-6, atol=1e-8)


def test_beyond_the_trained_range_the_nearest_trained_noise_is_taken() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Narrow(Denoiser):
        process, log_snr_range = FlowProcess(), (-2.0, 2.0)

        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None):  # type: ignore[no-untyped-def]
            seen.append((x_t, t))
            return GaussianMixture.ring(3).denoiser(self.process)(x_t, t)

    moved = TransferredDenoiser(Narrow(), EDMProcess(80.0))
    assert moved.log_snr_range == (-2.0, 2.0)
    t = torch.tensor([1.0, 1e-6, 0.0], dtype=torch.float64)
    eps_or_x_0 = torch.tensor([[0.5, -1.0]], dtype=torch.float64).expand(3, 2)
    size = torch.tensor([80.0, 1.0, 1.0], dtype=torch.float64)  # x is all noise, or all image
    assert bool(moved(size[:, None] * eps_or_x_0, t).x_0.isfinite().all())
    (x, t_own) = seen[0]
    assert moved.denoiser.process.log_snr(t_own).tolist() == pytest.approx([-2.0, 2.0, 2.0])
    shown = torch.where(t[:, None] > 0.5, t_own[:, None], 1 - t_own[:, None])  # sigma, or alpha, of the flow
    assert torch.allclose(x, shown * eps_or_x_0)


@pytest.mark.parametrize("of", PROCESSES)
@pytest.mark.parametrize("to", PROCESSES)
def test_a_moved_denoiser_is_finite_at_both_ends(of: str, to: str) -> None:
    moved = TransferredDenoiser(GaussianMixture.ring(7).denoiser(PROCESSES_TO_TRY[of]), PROCESSES_TO_TRY[to])
    x = torch.tensor([[1.0, 0.0], [0.3, -0.4]], dtype=torch.float64)
    assert bool(moved(x, torch.tensor([1.0, 1e-9])).x_0.isfinite().all())


class Message(Denoiser):
    """x_t itself as x_0-hat, with a learned variance."""

    process, log_snr_range = FlowProcess(), (-3.0, 5.0)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        return Denoised(x_t, variance_mix=x_t / 10)


def test_clipping_cuts_x_0_and_nothing_else() -> None:
    clipped = ClippedDenoiser(Message(), -0.5, 1.0)
    x, t = torch.tensor([[-7.0, -0.4], [0.9, 1.1]]), torch.tensor([0.5, 1.0])
    x_0, mix = clipped(x, t)[:2]
    assert torch.equal(x_0, torch.tensor([[-0.5, -0.4], [0.9, 1.0]]))
    assert mix is not None and torch.equal(mix, x / 10)


def test_wrappers_forward_what_they_wrap() -> None:
    inner, cond = Message(), Condition(label=torch.tensor([1]))
    for wrapper in (ClippedDenoiser(inner), FixedBatchDenoiser(inner, 2), CountingDenoiser(inner, cond)):
        assert wrapper.process is inner.process
        assert wrapper.log_snr_range == (-3.0, 5.0)


@pytest.mark.parametrize("label", ["index0", "index1"])
@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_step_index_stays_within_the_chain(label: str, value_range: tuple[float, float], grid: str) -> None:
    requested: list[float] = []

    def function(x: Tensor, index: Tensor) -> Tensor:
        requested.extend(index.tolist())
        return torch.zeros_like(x)

    chain = DiscreteVP.linear(50)
    wrapped = Denoiser.wrap(function, chain, "eps", time_label=label, value_range=value_range)
    assert wrapped.process.num_steps == 50
    assert wrapped.process.knots is not None and torch.equal(wrapped.process.knots, chain.knots)
    for t in time_grid(grid, wrapped.process, 50, wrapped.log_snr_range)[:-1]:
        wrapped(torch.zeros(1, 2, dtype=torch.float64), t[None])
    first = 0 if label == "index0" else 1
    assert max(requested) == first + 49
    if grid == "uniform":
        assert requested == [float(first + index) for index in range(49, -1, -1)]
    elif grid not in ("quadratic", "angle"):  # their last times are no neighbours of the end: some lie before step 1
        assert min(requested) == first
