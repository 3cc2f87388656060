"""Predictor-corrector and annealed Langevin: their bias has a closed form, and r, corrections and grids shrink it."""

from __future__ import annotations

import math

import pytest
import torch
from exact_moments import marginal, output_moments
from torch import Tensor

from sparse_product import sparse_product
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import UsageError
from undiffuse.samplers import make_sampler, pc
from undiffuse.samplers.base import sample
from undiffuse.samplers.langevin import langevin
from undiffuse.samplers.noise import NoiseSource

DATA = GaussianMixture.gaussian(torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double())
every_process = pytest.mark.parametrize("process_name", PROCESSES)
A_FEW = ["ddpm_linear", "ve", "flow"]
a_few_processes = pytest.mark.parametrize("process_name", A_FEW)


def biased_std(process: Process, t: Tensor, r: float) -> Tensor:
    """Where a Langevin chain at level t settles: sqrt(S / (1 - r^2 sigma^2 / S)), S = alpha^2 v + sigma^2; ``(D,)``."""
    _, std = marginal(DATA, process, t)
    return std / (1 - (r * process.sigma(t) / std) ** 2).sqrt()


def times_to(process: Process, end: float, num_steps: int) -> Tensor:
    return process.time_of_log_snr(torch.linspace(-6, end, num_steps + 1, dtype=torch.float64))


def bound(r: float) -> float:
    """What ``distance`` is at most for a settled chain: each of the two dimensions at most 1 / sqrt(1 - r^2) - 1."""
    return math.sqrt(2) * (1 / math.sqrt(1 - r**2) - 1)


def moments(
    spec: str, process: Process, times: Tensor, shift: float = 0.0, finish: bool = False
) -> tuple[Tensor, Tensor]:
    """Exact output mean and std, started from the marginal moved by ``shift`` standard deviations.

    One step at a time: without memory the moments at t decide those at s, and few draws are followed at once.
    """
    sampler, denoiser, last = make_sampler(spec), DATA.denoiser(process), len(times) - 2
    mean, std = marginal(DATA, process, times[0])
    mean = mean + shift * std
    for number in range(last + 1):
        pair, final = times[number : number + 2], finish and number == last
        mean, std = output_moments(denoiser, sampler, pair, mean, std, finish=final)
    return mean, std


def distance(spec: str, process: Process, times: Tensor, shift: float = 0.0) -> float:
    """2-Wasserstein distance of the output from the marginal, in units of the marginal's std."""
    mean, std = moments(spec, process, times, shift)
    true_mean, true_std = marginal(DATA, process, times[-1])
    return float((((mean - true_mean) / true_std).square() + (std / true_std - 1).square()).sum().sqrt())


@every_process
@pytest.mark.parametrize("log_snr", [-5.0, 0.0, 4.0])
@pytest.mark.parametrize("r", [0.05, 0.3, 0.9])
def test_the_chain_at_one_level_settles_at_the_closed_form(process_name: str, log_snr: float, r: float) -> None:
    process = PROCESSES[process_name]()
    t = process.time_of_log_snr(torch.full((3,), log_snr, dtype=torch.float64))
    centre, std = marginal(DATA, process, t[0])
    x, z = centre.repeat(3, 1), torch.zeros(3, 2, dtype=torch.float64)
    x[1], z[2] = x[1] + 1, 1.0
    moved = langevin(process, x, DATA.denoiser(process)(x, t).x_0, t, r, z)
    assert torch.allclose(moved[0], centre, rtol=1e-12, atol=1e-12)  # unbiased mean
    keep, add = moved[1] - moved[0], moved[2] - moved[0]
    assert bool((keep.abs() < 1).all())
    assert torch.allclose((add**2 / (1 - keep**2)).sqrt(), biased_std(process, t[0], r), rtol=1e-9)
    assert bool((biased_std(process, t[0], r) <= std / math.sqrt(1 - r**2)).all())  # the bound of the module's text


@pytest.mark.parametrize(
    ("process_name", "predictor"), sparse_product(A_FEW, ["reverse_diffusion", "euler", "ancestral"])
)
def test_many_corrections_leave_the_closed_form_bias_and_nothing_of_the_predictor(
    process_name: str, predictor: str
) -> None:
    process = PROCESSES[process_name]()
    times = times_to(process, -1.0, 2)
    mean, std = moments(f"pc:predictor={predictor},corrections=150,r=0.3", process, times, shift=2.0)
    assert torch.allclose(mean, marginal(DATA, process, times[-1])[0], rtol=0, atol=1e-6)
    assert torch.allclose(std, biased_std(process, times[-1], 0.3), rtol=1e-6)


@pytest.mark.parametrize(("name", "process_name"), sparse_product(["pc", "annealed_langevin"], PROCESSES, every=3))
def test_with_enough_corrections_the_bias_falls_with_r_squared(name: str, process_name: str) -> None:
    process = PROCESSES[process_name]()
    times = times_to(process, -1.0, 2)
    coarse, fine = (distance(f"{name}:corrections={n},r={r}", process, times) for r, n in ((0.4, 60), (0.2, 240)))
    assert 0 < coarse < bound(0.4)
    assert 3.9 < coarse / fine < 4.7


@pytest.mark.parametrize(
    ("name", "process_name"), sparse_product(["pc:r=0.2", "annealed_langevin:r=0.2"], PROCESSES, every=3)
)
def test_more_corrections_forget_a_wrong_start(name: str, process_name: str) -> None:
    process = PROCESSES[process_name]()
    times = times_to(process, 1.0, 6)
    first, second, third = (distance(f"{name},corrections={n}", process, times, shift=3.0) for n in (1, 4, 16))
    assert second < 0.7 * first
    assert third < 0.5 * second


@a_few_processes
def test_annealed_langevin_follows_finer_levels_down_to_the_stated_bias(process_name: str) -> None:
    process = PROCESSES[process_name]()
    coarse, middle, fine = (
        distance("annealed_langevin:r=0.3", process, times_to(process, 1.0, n)) for n in (8, 32, 96)
    )
    assert fine < middle / 1.5 < coarse / 3
    assert fine < bound(0.3)
    assert distance("annealed_langevin:r=0.3,corrections=20", process, times_to(process, 1.0, 32)) < bound(0.3)


@a_few_processes
def test_pc_with_a_good_predictor_stays_within_the_stated_bias_and_finer_grids_help(process_name: str) -> None:
    process = PROCESSES[process_name]()
    coarse, fine = (distance("pc:predictor=heun,r=0.2", process, times_to(process, 3.0, n)) for n in (32, 64))
    assert fine < coarse < bound(0.2)


@a_few_processes
@pytest.mark.parametrize(
    ("spec", "r"), [("pc:predictor=heun,r=0.1", 0.1), ("annealed_langevin:r=0.3,corrections=20", 0.3)]
)
def test_on_a_grid_to_the_end_both_find_gaussian_data(spec: str, r: float, process_name: str) -> None:
    process = PROCESSES[process_name]()
    times = torch.cat([times_to(process, 8.0, 60), torch.zeros(1, dtype=torch.float64)])
    mean, std = moments(spec, process, times, finish=True)
    assert torch.allclose(mean, DATA.mean, rtol=0, atol=1e-9)
    assert float((std / DATA.variance.sqrt() - 1).abs().max()) < bound(r) / math.sqrt(2)  # of one dimension


# --- a mixture, by Monte Carlo --------------------------------------------------------------------------------------


class Torch(NoiseSource):
    """Fast fresh noise for many rows; a Brownian increment over a step of its own is a fresh draw too."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def at(self, index: Tensor) -> Torch:
        return self

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=self.generator)

    prior = normal

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        return self.normal(like)


STEPS = {"pc:predictor=heun,r=0.05": 60, "annealed_langevin:r=0.3,corrections=20": 40}


@pytest.mark.parametrize(("spec", "process_name"), sparse_product(STEPS, ["vp", "ve"]))
def test_on_a_mixture_modes_weights_and_moments_are_right(spec: str, process_name: str) -> None:
    num_steps = STEPS[spec]
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.09, 0.09]), torch.tensor([0.3, 0.7]))
    process, num = PROCESSES[process_name](), 2000
    times = torch.cat([times_to(process, 6.0, num_steps), torch.zeros(1, dtype=torch.float64)])
    noise = Torch()
    start = process.start_std(float(times[0])) * noise.normal(torch.empty(num, 1, dtype=torch.float64))
    result = sample(
        mixture.denoiser(process),
        make_sampler(spec),
        times,
        shape=(1,),
        seeds=range(num),
        x_start=start + process.alpha(times[:1]) * mixture.mean,
        noise=noise,
    )
    x = result.x
    for measured, expected in (
        ((x > 0).double(), 0.7),
        (x, 0.4),
        (x.square(), 1.09),
        ((x - x.sign()).square(), 0.09),
    ):
        error = float(measured.std()) / num**0.5
        assert abs(float(measured.mean()) - expected) < 4 * error


# --- rows at rest, and what is refused ------------------------------------------------------------------------------


@every_process
def test_where_nothing_is_left_to_correct_pc_gives_what_its_predictor_gives(process_name: str) -> None:
    process = PROCESSES[process_name]()
    times = torch.tensor([0.7, 0.2], dtype=torch.float64)
    x_start = torch.tensor([[0.4, -0.6]], dtype=torch.float64)

    def run(spec: str, finish: bool, times: Tensor = times) -> Tensor:
        return sample(
            DATA.denoiser(process),
            make_sampler(spec),
            times,
            shape=(2,),
            seeds=[1],
            x_start=x_start,
            finish=finish,
        ).x

    assert torch.equal(run("pc:predictor=heun", True), run("heun", True))
    assert not torch.equal(run("pc:predictor=heun", False), run("heun", False))
    if float(process.sigma(torch.zeros(1))) == 0:
        to_zero = torch.tensor([0.7, 0.0], dtype=torch.float64)
        assert torch.equal(run("pc:predictor=heun", False, to_zero), run("heun", False, to_zero))


def test_facts_follow_from_the_predictor() -> None:
    assert make_sampler("pc").needs_brownian
    assert not make_sampler("pc:predictor=heun").needs_brownian
    assert make_sampler("pc:predictor=heun,corrections=3").max_nfe_per_step == 5
    assert make_sampler("annealed_langevin:corrections=7").max_nfe_per_step == 7
    assert make_sampler("pc:predictor=ddim:eta=1").order == make_sampler("annealed_langevin").order == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pc:corrections=0", "from 1 to 1000, got 0"),
        ("pc:corrections=1.5", "whole number, got '1.5'"),
        ("pc:corrections=inf", "whole number, got 'inf'"),
        ("pc:corrections=nan", "whole number, got 'nan'"),
        ("pc:r=0", "strictly between 0 and 1, got 0"),
        ("pc:r=1", "strictly between 0 and 1, got 1"),
        ("pc:r=nan", "strictly between 0 and 1"),
        ("annealed_langevin:r=-1", "strictly between 0 and 1, got -1"),
        ("annealed_langevin:corrections=-2", "from 1 to 1000, got -2"),
        ("pc:predictor=pc", "'pc' is a Langevin sampler"),
        ("pc:predictor=annealed_langevin", "'annealed_langevin' is a Langevin sampler"),
        ("pc:predictor=huen", "did you mean 'heun'"),
        ("pc:corection=2", "did you mean 'corrections'"),
    ],
)
def test_options_that_make_no_sense_are_rejected(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_sampler(spec)


def test_from_python_too() -> None:
    with pytest.raises(UsageError, match=r"from 1 to 1000, got 2\.5"):
        pc(corrections=2.5)  # type: ignore[arg-type]
    assert pc(corrections=2).max_nfe_per_step == 3
