"""Learned variances: where the bound is smallest, what each loss moves, and that its terms are the bound's own."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import ClippedDenoiser, Denoised, Denoiser, NetworkDenoiser, TransferredDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, GeometricVE
from undiffuse.core.random import StepRandom
from undiffuse.core.variance import mix_of, mixed_variance, transferred_mix
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.hybrid import bound_term, hybrid_loss, variational_loss
from undiffuse.losses.variational import discretised_gaussian, term, variational_bound
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.request import SampleRequest
from undiffuse.objectives.base import LossReport
from undiffuse.objectives.diffusion import DiffusionConfig, DiffusionObjective
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, sample
from undiffuse.samplers.grids import time_grid

CHAINS = {"linear": DiscreteVP.linear(50, 1e-3, 0.2), "cosine": DiscreteVP.cosine(40), "ncsn": GeometricVE(20, 0.05, 5)}
every_chain = pytest.mark.parametrize("process", CHAINS.values(), ids=CHAINS)


def knots_after_the_first(process: Process) -> tuple[Tensor, Tensor]:
    assert process.knots is not None
    return process.knots[1:-1], process.knots[2:]


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- where the bound is smallest ------------------------------------------------------------------------------------


def expected_term(process: Process, data_variance: float, mix: Tensor) -> Tensor:
    """E L_k, k = 2 ... T, on N(0, data_variance) with its exact denoiser: affine in the squared error, so at its mean.

    Returns ``(T - 1,)`` nats.
    """
    s, t = knots_after_the_first(process)
    alpha2, sigma2 = process.alpha(t) ** 2, process.sigma(t) ** 2
    square_error = data_variance * sigma2 / (alpha2 * data_variance + sigma2)
    x_0 = square_error.sqrt()[:, None]
    return term(process.bridge(s, t), x_0, Denoised(torch.zeros_like(x_0), mix.expand_as(x_0)), "learned")


@every_chain
@pytest.mark.parametrize("data_variance", [0.0, 0.2, 1.0])
def test_the_best_mix_gives_the_true_variance_of_the_reverse_step(process: Process, data_variance: float) -> None:
    """Var(x_s | x_t) of Gaussian data, from the joint distribution of x_s and x_t alone."""
    s, t = knots_after_the_first(process)
    var_s = process.alpha(s) ** 2 * data_variance + process.sigma(s) ** 2
    var_t = process.alpha(t) ** 2 * data_variance + process.sigma(t) ** 2
    alpha_ts = process.alpha(t) / process.alpha(s)
    true = var_s - (alpha_ts * var_s) ** 2 / var_t
    bridge = process.bridge(s, t)
    best = (torch.log(true / bridge.var) / torch.log(bridge.var_max / bridge.var))[:, None].requires_grad_()
    least = expected_term(process, data_variance, best)
    (slope,) = torch.autograd.grad(least.sum(), best)
    assert torch.allclose(slope, torch.zeros_like(slope), atol=1e-9)
    assert torch.allclose(mixed_variance(bridge, best.detach())[:, 0], true, rtol=1e-9)
    for away in (-0.3, -0.01, 0.01, 0.3):
        assert bool((expected_term(process, data_variance, best + away) > least).all())


@pytest.mark.parametrize(("data_variance", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_the_best_mix_is_beta_on_unit_gaussian_data_and_beta_tilde_on_one_point(
    data_variance: float, expected: float
) -> None:
    mix = torch.full((len(CHAINS["linear"].knots[2:]), 1), expected, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(expected_term(CHAINS["linear"], data_variance, mix).sum(), mix)
    assert torch.allclose(slope, torch.zeros_like(slope), atol=1e-9)


# --- the loss is the bound ------------------------------------------------------------------------------------------


class Guessing(Denoiser):
    """x_0-hat and mix some smooth functions of x_t and t."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        t = t.reshape(-1, *([1] * (x_t.ndim - 1))).to(x_t.dtype)
        return Denoised(torch.tanh(x_t * (1 - t)), torch.sigmoid(2 * x_t - t))


@every_chain
def test_its_mean_over_the_knots_is_the_bound_without_its_prior(process: Process) -> None:
    x_0 = (noise((3, 1, 2, 2)).clamp(-2, 2) * 64).round() / 127.5 + 1 / 255
    x_0 = ((x_0 * 0.5 + 0.5) * 255).round() / 127.5 - 1
    bound = variational_bound(
        Guessing(process), x_0, process.knots[1:], lambda like, number: noise(tuple(like.shape), number),
        variance="learned", decoder="reverse",
    )  # fmt: skip
    terms = []
    for number, knot in enumerate(process.knots[1:]):
        t = knot.expand(3)
        x_t = process.diffuse(x_0, noise((3, 1, 2, 2), number), t)
        terms.append(bound_term(process, x_0, t, Guessing(process)(x_t, t)))
    together = torch.stack(terms, 1).mean(1)
    assert torch.allclose(together, bound.bits_per_dim(bound.total - bound.prior), rtol=1e-9)
    # knots in any order and batch, the first among others
    t = process.knots[torch.tensor([7, 1, 3])]
    mixed = bound_term(process, x_0, t, Guessing(process)(x_0, t))
    alone = [bound_term(process, x_0[i : i + 1], t[i : i + 1], Guessing(process)(x_0, t[i].expand(3))._replace(
        x_0=Guessing(process)(x_0, t).x_0[i : i + 1], variance_mix=Guessing(process)(x_0, t).variance_mix[i : i + 1]
    )) for i in range(3)]  # fmt: skip
    assert torch.allclose(mixed, torch.cat(alone), rtol=1e-12)


def test_points_have_a_density_at_the_first_knot() -> None:
    process = CHAINS["linear"]
    x_0, guess = noise((4, 2)), noise((4, 2), 1)
    t = process.knots[1:2].expand(4)
    for mix, variance in ((0.0, process.bridge(process.knots[1:2], process.knots[2:3]).var),
                          (1.0, torch.exp(-process.log_snr(t[:1])))):  # fmt: skip
        density = torch.distributions.Normal(guess, variance.sqrt()).log_prob(x_0)
        value = bound_term(process, x_0, t, Denoised(guess, torch.full_like(guess, mix)), num_levels=None)
        assert torch.allclose(value, -50 * density.mean(1) / math.log(2), rtol=1e-10)


def test_fine_levels_have_the_density_times_their_distance() -> None:
    """The two decoders of the first knot differ by the size of a level alone, where levels are fine."""
    process, levels = CHAINS["linear"], 2**16 + 1
    x_0 = (noise((3, 2)) * 0.3 * 2**15).round() / 2**15
    t, denoised = process.knots[1:2].expand(3), Denoised(0.9 * x_0, torch.full_like(x_0, 0.3))
    mass = bound_term(process, x_0, t, denoised, levels)
    density = bound_term(process, x_0, t, denoised, None)
    assert torch.allclose(mass - density, torch.full((3,), 50 * 15.0).double(), rtol=1e-6)


@pytest.mark.parametrize("x_0", [-1.0, 1.0, 1 / 255])
@pytest.mark.parametrize("guess", [-1.0, 1.0, 0.0, 40.0, -3e4])
@pytest.mark.parametrize("knot", [1, 2, 40])
def test_gradients_stay_finite(x_0: float, guess: float, knot: int) -> None:
    process = CHAINS["cosine"]
    mean = torch.full((1, 1), guess, dtype=torch.float64, requires_grad=True)
    mix = torch.full((1, 1), 0.4, dtype=torch.float64, requires_grad=True)
    value = bound_term(process, torch.full((1, 1), x_0).double(), process.knots[[knot]], Denoised(mean, mix))
    for gradient in torch.autograd.grad(value.sum(), (mean, mix)):
        assert bool(gradient.isfinite().all())


def test_the_decoders_gradient_is_that_of_finite_differences() -> None:
    x_0 = torch.tensor([-1.0, 1.0, 1 / 255, 201 / 255]).double()
    mean, log_std = (x_0 + 0.01).requires_grad_(), torch.full((4,), -4.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: discretised_gaussian(x_0, m, s), (mean, log_std))


@pytest.mark.parametrize("process", [PROCESSES["vp"](), DiscreteVP([0.3])])
def test_a_process_without_neighbouring_knots_is_rejected(process: Process) -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(UsageError, match="num_steps of at least 2"):
        bound_term(process, x, torch.ones(1), Denoised(x, x))


# --- what each loss moves -------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """The two halves of the channels depend on parameters of their own and on x."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw = nn.Parameter(torch.tensor(0.7).double()), nn.Parameter(torch.tensor(0.2).double())
        self.calls = 0

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        self.calls += 1
        return torch.cat([self.mean * torch.tanh(x), self.raw * torch.cos(x)], 1)


def gradients(loss: str, parameterization: str = "eps") -> tuple[float, float, int]:
    """d loss / d (mean, raw), and calls of the network, over knots among which is the first."""
    process, network = CHAINS["linear"], TwoHeads()
    denoiser = NetworkDenoiser(network, Parameterization(parameterization, process), learned_variance=True)
    x_0, eps = noise((6, 3, 2, 2)).clamp(-1, 1), noise((6, 3, 2, 2), 1)
    t = process.knots[torch.tensor([1, 2, 5, 20, 49, 50])]
    weight = WEIGHTINGS["simple"]()
    rows = {
        "denoising": lambda: denoising_loss(denoiser, x_0, eps, t, weight),
        "variational": lambda: variational_loss(denoiser, x_0, eps, t),
        "hybrid": lambda: hybrid_loss(denoiser, x_0, eps, t, weight, bound_weight=0.02),
    }[loss]()
    assert rows.shape == (6,) and rows.dtype == x_0.dtype
    rows.mean().backward()
    return *(float(0 if p.grad is None else p.grad) for p in (network.mean, network.raw)), network.calls


@pytest.mark.parametrize("parameterization", ["eps", "v", "x0", "posterior_mean", "edm"])
def test_in_the_hybrid_the_bound_moves_the_variance_alone(parameterization: str) -> None:
    denoising, bound, hybrid = (gradients(name, parameterization) for name in ("denoising", "variational", "hybrid"))
    assert denoising[1] == 0 and denoising[0] != 0
    assert bound[0] != 0 and bound[1] != 0
    assert hybrid[0] == pytest.approx(denoising[0], rel=1e-12)
    assert hybrid[1] == pytest.approx(0.02 * bound[1], rel=1e-12)
    assert hybrid[2] == 1  # one evaluation


def test_the_hybrid_is_the_sum_of_its_parts() -> None:
    process = CHAINS["linear"]
    denoiser = NetworkDenoiser(TwoHeads(), Parameterization("v", process), learned_variance=True)
    x_0, eps, t = noise((4, 2)), noise((4, 2), 1), process.knots[torch.tensor([1, 2, 9, 50])]
    weight = WEIGHTINGS["min_snr"]()
    hybrid = hybrid_loss(denoiser, x_0, eps, t, weight, num_levels=None)
    parts = denoising_loss(denoiser, x_0, eps, t, weight), variational_loss(denoiser, x_0, eps, t, num_levels=None)
    assert torch.allclose(hybrid, parts[0] + 0.001 * parts[1], rtol=1e-12)


# --- the network's second half --------------------------------------------------------------------------------------


def test_minus_one_reports_beta_tilde_and_one_reports_beta() -> None:
    bridge = CHAINS["linear"].bridge(*(CHAINS["linear"].knots[[k]].expand(2) for k in (3, 9)))
    raw = torch.tensor([[-1.0, 0.0, 1.0, 2.0]]).double().expand(2, 4)
    v = mixed_variance(bridge, mix_of(raw))
    assert torch.allclose(v[:, 0], bridge.var, rtol=1e-12)
    assert torch.allclose(v[:, 2], bridge.var_max, rtol=1e-12)
    assert torch.allclose(v[:, 1], (bridge.var * bridge.var_max).sqrt(), rtol=1e-12)
    assert bool((v[:, 3] > bridge.var_max).all())


def test_the_two_halves_of_the_channels() -> None:
    process = CHAINS["linear"]
    denoiser = NetworkDenoiser(TwoHeads(), Parameterization("x0", process), learned_variance=True)
    x, t = noise((3, 2, 2, 2)), torch.tensor([0.1, 0.5, 1.0])
    denoised = denoiser(x, t)
    assert torch.allclose(denoised.x_0, 0.7 * torch.tanh(x))
    assert denoised.variance_mix is not None
    assert torch.allclose(denoised.variance_mix, (0.2 * torch.cos(x) + 1) / 2)
    assert torch.equal(denoiser.output(x, t), denoiser.outputs(x, t)[0])
    for wrapped in (ClippedDenoiser(denoiser), FixedBatchDenoiser(denoiser, 2), TransferredDenoiser(denoiser, process)):
        mix = wrapped(x, t).variance_mix
        assert mix is not None and torch.allclose(mix, denoised.variance_mix, rtol=1e-6)


def true_mix(process: Process, s: Tensor, t: Tensor, data_variance: float) -> Tensor:
    """The mix whose variance is Var(x_s | x_t) of Gaussian data."""
    bridge, noise2 = process.bridge(s, t), process.sigma(t) ** 2
    error = data_variance * noise2 / (process.alpha(t) ** 2 * data_variance + noise2)
    return torch.log1p(bridge.c_0**2 * error / bridge.var) / torch.log(bridge.var_max / bridge.var)


@pytest.mark.parametrize("of", ["vp", "ve", "sub_vp", "flow"])
@pytest.mark.parametrize("to", ["vp", "ve", "sub_vp", "flow"])
@pytest.mark.parametrize("data_variance", [0.05, 0.3])
def test_a_mix_moves_to_another_process_at_the_same_log_snr(of: str, to: str, data_variance: float) -> None:
    """In short steps of both."""
    own, process = PROCESSES[of](), PROCESSES[to]()
    log_snr = torch.tensor([4.0, 1.0, -0.5, -3.0], dtype=torch.float64)
    ends = [(p.time_of_log_snr(log_snr + 1e-4), p.time_of_log_snr(log_snr)) for p in (own, process)]
    said, wanted = (true_mix(p, *pair, data_variance) for p, pair in zip((own, process), ends, strict=True))
    moved = transferred_mix(said, own, ends[0][1], process, ends[1][1])
    kept = wanted < 0.99  # beyond beta nothing is moved
    assert int(kept.sum()) >= 2
    assert torch.allclose(moved[kept], wanted[kept], rtol=1e-3)
    assert bool((moved <= said.clamp(min=1) + 1e-9).all())


# --- sampling -------------------------------------------------------------------------------------------------------


class Exact(Denoiser):
    """The exact denoiser of N(0, 1), with one mix everywhere."""

    def __init__(self, process: Process, mix: float | None) -> None:
        super().__init__()
        self.process, self.mix = process, mix

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = (alpha / (alpha**2 + sigma**2)).reshape(-1, *([1] * (x_t.ndim - 1))).to(x_t.dtype)
        return Denoised(gain * x_t, None if self.mix is None else torch.full_like(x_t, self.mix))


@every_chain
@pytest.mark.parametrize("num_steps", [3, 10])
@pytest.mark.parametrize(("mix", "variance"), [(0.0, "beta_tilde"), (1.0, "beta")])
def test_at_the_ends_of_the_mix_it_is_the_fixed_variance_on_any_grid(
    process: Process, num_steps: int, mix: float, variance: str
) -> None:
    def draw(denoiser: Denoiser, spec: str, finish: bool) -> Tensor:
        options: dict[str, Any] = {"shape": (1, 2, 2), "seeds": range(3), "dtype": torch.float64, "finish": finish}
        times = time_grid("uniform", process, num_steps)[: None if finish else -1]
        return sample(denoiser, make_sampler(spec), times, **options).x

    for finish in (True, False):
        learned = draw(Exact(process, mix), "ancestral:variance=learned", finish)
        assert torch.allclose(learned, draw(Exact(process, None), f"ancestral:variance={variance}", finish), rtol=1e-9)


def test_each_element_has_its_own_variance() -> None:
    process = CHAINS["linear"]
    s, t = process.knots[[4]].expand(3), process.knots[[30]].expand(3)
    bridge, mix = process.bridge(s, t), torch.rand(3, 2, dtype=torch.float64)
    expected = bridge.var[:, None] ** (1 - mix) * bridge.var_max[:, None] ** mix
    assert torch.allclose(mixed_variance(bridge, mix), expected, rtol=1e-12)
    at_zero = process.bridge(torch.zeros(3).double(), t)
    assert torch.equal(mixed_variance(at_zero, mix), torch.zeros(3, 2).double())


def test_without_a_learned_variance_it_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"learned_variance=true"):
        sample(
            Exact(CHAINS["linear"], None), make_sampler("ancestral:variance=learned"), torch.tensor([1.0, 0.0]),
            shape=(2,), seeds=[1],
        )  # fmt: skip


# --- the system -----------------------------------------------------------------------------------------------------

LEARNED: dict[str, Any] = {
    "process": {"name": "ddpm_cosine", "num_steps": 6},
    "parameterization": "eps",
    "weighting": {"name": "simple"},
    "time_density": {"name": "knots"},
    "network": {"name": "mlp", "width": 16, "num_blocks": 1},
    "learned_variance": True,
    "objective": "hybrid",
}


def objective_of(shape: tuple[int, ...] = (2,), **changes: Any) -> DiffusionObjective:
    torch.manual_seed(0)
    built = validate(DiffusionConfig, {**LEARNED, **changes}).build(shape, ())
    assert isinstance(built, DiffusionObjective)
    return built


def step_of(objective: DiffusionObjective, batch: Batch, rng: StepRandom) -> LossReport:
    """The loss of a step, which the objective records."""
    report: LossReport = objective(batch, "main", rng)
    objective.absorb("main", [report.records])
    return report


def batch_of(rows: int, shape: tuple[int, ...] = (2,)) -> Batch:
    x_0 = noise((rows, *shape)).float().clamp(-1, 1)
    return Batch(x_0, Given(), torch.arange(rows))


def test_it_samples_by_its_variance_unless_another_is_chosen() -> None:
    config = validate(DiffusionConfig, LEARNED)
    assert config.sampling.sampler == "ancestral:variance=learned"
    assert validate(DiffusionConfig, json.loads(config.model_dump_json())) == config
    chosen = validate(DiffusionConfig, {**LEARNED, "sampling": {"sampler": "ddim"}})
    assert chosen.sampling.sampler == "ddim"
    for shape in ((2,), (1, 4, 4)):
        x = objective_of(shape).model.sample(SampleRequest.of(range(3), steps=4)).x
        assert x.shape == (3, *shape) and bool(x.isfinite().all())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_the_variance_head_is_not_rounded(precision: str, shape: tuple[int, ...]) -> None:
    network = {"name": "unet", "channels": 8, "multipliers": [1]} if len(shape) == 3 else LEARNED["network"]
    objective = objective_of(shape, precision=precision, network=network)
    for value in objective.model.network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    mix = objective.model.denoiser()(batch_of(4, shape).x_0, torch.full((4,), 0.5)).variance_mix
    assert mix is not None and mix.dtype == torch.float32 and mix.shape == (4, *shape)
    assert not torch.equal(mix, mix.bfloat16().float())


@pytest.mark.parametrize("objective", ["hybrid", "variational"])
def test_a_loss_is_a_number_a_row_and_its_mean(objective: str) -> None:
    objective = objective_of(objective=objective)
    report = objective(batch_of(32), "main", StepRandom(0, 0))
    assert report.per_sample.shape == report.t.shape == (32,)
    assert float(report.loss.detach()) == pytest.approx(float(report.per_sample.mean()), rel=1e-6)
    assert sorted(set((report.t * 6).round().int().tolist())) == [1, 2, 3, 4, 5, 6]


def test_validation_neither_reads_nor_writes_the_history() -> None:
    objective = objective_of(time_draws="importance", objective="variational")
    assert objective.importance is not None
    objective.train()
    for step in range(40):
        step_of(objective, batch_of(32), StepRandom(0, step))
    before = {name: value.clone() for name, value in objective.importance.state_dict().items()}
    assert int(before["counts"].min()) >= 10
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    assert not torch.allclose(objective.importance.probabilities(), uniform, rtol=0.05)
    validated = step_of(objective.eval(), batch_of(32), StepRandom(0, 0, stream="validation"))
    assert all(torch.equal(value, before[name]) for name, value in objective.importance.state_dict().items())
    plain = objective_of(objective="variational").eval()(batch_of(32), "main", StepRandom(0, 0, stream="validation"))
    assert torch.equal(validated.t, plain.t) and torch.equal(validated.per_sample, plain.per_sample)


def test_importance_weighs_the_rows_it_draws() -> None:
    """Same knots, same noise: a row counts 1 / (T p) times its plain loss, and the history keeps it plain."""
    objective = objective_of(time_draws="importance", objective="variational")
    assert objective.importance is not None
    objective.importance.counts.fill_(10)
    objective.importance.losses.copy_(torch.arange(1.0, 7.0)[:, None].expand(6, 10))
    p = objective.importance.probabilities()
    report = step_of(objective.train(), batch_of(64), StepRandom(0, 3))
    x_0, eps = batch_of(64).x_0, StepRandom(0, 3).normal(batch_of(64).x_0, "eps")
    plain = variational_loss(objective.model.denoiser(), x_0, eps, report.t, None, None).detach()
    knot = (report.t * 6).round().long() - 1
    assert torch.allclose(report.per_sample, plain / (6 * p[knot]).float(), rtol=1e-5)
    last = plain[knot == 5][-1]
    assert float(last) in objective.importance.losses[5].float().tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "denoising"}, "does not train the variance"),
        ({"learned_variance": False}, "learned_variance=true"),
        ({"learned_variance": False, "objective": "variational"}, "weighting=variational"),
        ({"process": {"name": "vp"}, "time_density": {"name": "uniform"}}, "num_steps of at least 2"),
        ({"time_density": {"name": "uniform"}}, "time_density=knots"),
        ({"process": {"name": "ddpm_linear", "num_steps": 1}}, "num_steps of at least 2"),
        (
            {"objective": "denoising", "learned_variance": False, "time_draws": "importance",
             "time_density": {"name": "uniform"}},
            "time_draws='importance' needs",
        ),
        (
            {"objective": "denoising", "learned_variance": False,
             "sampling": {"sampler": "ancestral:variance=learned"}},
            "needs system.learned_variance=true",
        ),
        ({"bound_weight": 0}, "bound_weight"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(DiffusionConfig, {**LEARNED, **changes})
