"""TunedGrid time grids, on data whose denoiser is exact: closer to the fine solution than every named grid."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sparse_product import sparse_product
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, VESDE, FlowProcess, make_process
from undiffuse.errors import UsageError
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import GRIDS, inner_log_snrs, knots_spec, time_grid
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.tuned_grids import Trial, TunedGrid, tune_grid

DATA = GaussianMixture(torch.tensor([[-0.8, 0.3], [0.5, 0.5], [0.2, -0.7]]), torch.tensor([0.01, 0.04, 0.02]))


def trials(process: Process, count: int = 48) -> tuple[Trial, Trial]:
    denoiser = DATA.denoiser(process)
    return tuple(Trial(denoiser, (2,), range(seed, seed + count)).solved(64) for seed in (1000, 5000))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("process_name", "name"), sparse_product(["flow", "vp", "edm"], ["unipc", "dpmpp_2m", "heun", "euler"], every=2)
)
def test_it_is_closer_than_every_named_grid_on_seeds_it_did_not_see(name: str, process_name: str) -> None:
    tuned = tune_grid(*trials(make_process(process_name)), make_sampler(name), 6)
    assert set(tuned.named) == set(GRIDS) - {"through"}
    assert tuned.error < min(tuned.named.values())
    assert tuned.num_steps == 6
    assert all(one < other for one, other in pairwise(tuned.log_snrs))


def test_the_error_is_what_the_grid_s_name_gives() -> None:
    process, sampler = FlowProcess(), make_sampler("unipc")
    trial, check = trials(process)
    tuned = tune_grid(trial, check, sampler, 5)
    times = time_grid(tuned.grid, process, 5)
    result = sample(check.denoiser, sampler, times, shape=(2,), seeds=check.seeds)
    assert check.solution is not None
    error = float((result.x - check.solution).double().square().mean().sqrt())
    assert error == pytest.approx(tuned.error, rel=0.02)  # the name holds three decimals
    assert result.nfe == tuned.nfe == 5


def test_the_fine_solution_is_the_ode_s() -> None:
    # a Gaussian's ODE ends at mean + std z
    mean, variance = torch.tensor([0.3, -0.2]), torch.tensor([0.04, 0.5])
    process = FlowProcess()
    trial = Trial(GaussianMixture.gaussian(mean, variance).denoiser(process), (2,), range(20)).solved()
    expected = mean + variance.sqrt() * SeededNoise(range(20)).prior(torch.empty(20, 2))
    assert trial.solution is not None
    assert torch.allclose(trial.solution, expected, atol=5e-3)


@pytest.mark.parametrize(("error", "helps"), [(0.3, True), (0.4, False), (0.5, False), (math.inf, False)])
def test_a_tuned_grid_that_does_no_better_on_other_seeds_is_not_kept(error: float, helps: bool) -> None:
    tuned = TunedGrid("unipc", (-1.0, 2.0), 3, error, {"karras": 0.6, "uniform": 0.4})
    assert tuned.helps == helps
    assert (tuned.grid, tuned.error) == (("through:knots=-1.000/2.000", 0.3) if helps else ("uniform", 0.4))


def test_knots_beyond_the_ends_miss_by_any_distance() -> None:
    process = VESDE(sigma_min=0.1, sigma_max=3.0)
    trial = Trial(DATA.denoiser(process), (2,), range(4)).solved(8)
    low, high = process.log_snr(trial.times("uniform", 1)).tolist()
    for knots in ([low, 0.0], [0.0, high], [0.0, math.nan]):
        assert bool(trial.residual_at(make_sampler("unipc"), torch.tensor(knots, dtype=torch.float64)).isinf().all())
    assert bool(
        trial.residual_at(make_sampler("unipc"), torch.tensor([-1.0, 1.0], dtype=torch.float64)).isfinite().all()
    )


def test_tuning_is_deterministic() -> None:
    one, other = (tune_grid(*trials(FlowProcess(), 8), make_sampler("unipc"), 4) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [("ancestral", 5, "deterministic"), ("rk45", 5, "with fixed steps"), ("unipc", 1, "at least 2")],
)
def test_what_cannot_be_tuned_is_rejected(name: str, steps: int, message: str) -> None:
    trial = Trial(DATA.denoiser(FlowProcess()), (2,), range(4))
    with pytest.raises(UsageError, match=message):
        tune_grid(trial, trial, make_sampler(name), steps)


# --- the grid through given knots -----------------------------------------------------------------------------------


@pytest.mark.parametrize("process_name", PROCESSES)
def test_it_goes_through_its_knots(process_name: str) -> None:
    process = make_process(process_name)
    knots = [-2.0, -0.5, 0.25, 1.0]
    times = time_grid("through:knots=-2/-0.5/0.25/1", process, 5)
    assert torch.allclose(process.log_snr(times[1:-1]), torch.tensor(knots, dtype=torch.float64), atol=1e-6)
    assert float(times[-1]) == 0


def test_other_numbers_of_steps_stay_on_its_line() -> None:
    process = FlowProcess()
    fine = inner_log_snrs(process, time_grid("through:knots=-3/-1/0/2", process, 10))
    assert torch.allclose(fine[1::2], torch.tensor([-3.0, -1.0, 0.0, 2.0], dtype=torch.float64))  # every second
    assert torch.allclose(fine[2::2], torch.tensor([-2.0, -0.5, 1.0, 3.0], dtype=torch.float64))  # halfway, and on
    assert float(fine[0]) == pytest.approx(-4)
    finite = VESDE(sigma_min=math.exp(-4), sigma_max=math.exp(4))  # log-SNR from -8 to 8
    line = inner_log_snrs(finite, time_grid("through:knots=-4/0/4", finite, 8))
    assert line.tolist() == pytest.approx([-6, -4, -2, 0, 2, 4, 6], abs=1e-6)


def test_one_knot_and_one_step() -> None:
    process = FlowProcess()
    assert time_grid("through:knots=0", process, 2).tolist() == pytest.approx([1, 0.5, 0])
    assert time_grid("through:knots=0/1", process, 1).tolist() == [1, 0]
    assert inner_log_snrs(process, time_grid("through:knots=0", process, 4)).tolist() == pytest.approx([-1, 0, 1])


def test_its_name_is_read_back() -> None:
    name = knots_spec([-3.25, 0.125, 4.0])
    assert name == "through:knots=-3.250/0.125/4.000"
    assert inner_log_snrs(FlowProcess(), time_grid(name, FlowProcess(), 4)).tolist() == pytest.approx([-3.25, 0.125, 4])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("through:knots=1/0", "ascending log-SNRs"),
        ("through:knots=1/1", "ascending log-SNRs"),
        ("through:knots=a/b", "ascending log-SNRs"),
        ("through:knots=inf", "ascending log-SNRs"),
        ("through:knot=1", "did you mean 'knots'"),
    ],
)
def test_senseless_knots_are_rejected(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        time_grid(name, FlowProcess(), 3)


def test_knots_beyond_the_ends_are_rejected() -> None:
    process = VESDE(sigma_min=0.1, sigma_max=3.0)
    with pytest.raises(UsageError, match="must be between the ends"):
        time_grid("through:knots=-6/0", process, 3)
