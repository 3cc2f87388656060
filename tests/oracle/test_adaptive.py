"""The adaptive solver and ``rk45`` against closed forms, SciPy and torchdiffeq; every row with steps of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchdiffeq
from exact_moments import marginal
from scipy.integrate import solve_ivp
from torch import Tensor

from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import RunError, UsageError
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.probability_flow import slope
from undiffuse.samplers.runge_kutta import State, integrate

START = torch.tensor([-3.0, 2.0, 0.5, -5.0, 1.0]).double()
END = torch.tensor([2.0, -4.0, 0.5, 7.0, 1.001]).double()
X = torch.linspace(0.1, 1, 15, dtype=torch.float64).reshape(5, 3)
DATA = GaussianMixture.gaussian(torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double())


def swinging(log_snr: Tensor, state: State) -> State:
    """Not linear, and not smooth in the same places for all rows; the second tensor adds up the first."""
    x, total = state
    rate = torch.cos(3 * log_snr)
    return rate[:, None] * x - 0.2 * x * x, x.mean(1) + 0 * total


def by_scipy(row: int) -> tuple[Tensor, float]:
    def rhs(log_snr: float, y: np.ndarray) -> np.ndarray:
        return np.append(math.cos(3 * log_snr) * y[:3] - 0.2 * y[:3] ** 2, y[:3].mean())

    start = np.append(X[row].numpy(), 0.0)
    y = solve_ivp(rhs, (float(START[row]), float(END[row])), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return torch.tensor(y[:3]), float(y[3])


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_it_solves_to_the_tolerance_in_both_directions(tolerance: float) -> None:
    solved = integrate(swinging, START, END, (X, torch.zeros(5).double()), rtol=tolerance, atol=tolerance)
    for row in range(5):
        x, total = (X[row], 0.0) if row == 2 else by_scipy(row)
        assert float((solved.state[0][row] - x).abs().max()) < 20 * tolerance
        assert abs(float(solved.state[1][row]) - total) < 20 * tolerance * (1 + abs(total))
    assert solved.nfe[2] == 0
    assert int(solved.nfe[4]) == 8 < int(solved.nfe[3])  # the slope, the guess of a first step, and one step


def test_evaluations_grow_as_a_method_of_order_five_should_let_them() -> None:
    few, many = (
        integrate(swinging, START, END, (X, torch.zeros(5).double()), rtol=rtol, atol=rtol).nfe[3].item()
        for rtol in (1e-6, 1e-10)
    )
    assert many / few == pytest.approx(6.3, rel=0.25)  # 1e4 ** (1 / 5)


def test_a_row_gets_what_it_gets_alone_bit_for_bit() -> None:
    together = integrate(swinging, START, END, (X, torch.zeros(5).double()))
    for row in range(5):
        one = slice(row, row + 1)
        alone = integrate(swinging, START[one], END[one], (X[one], torch.zeros(1).double()))
        assert all(torch.equal(a, b[one]) for a, b in zip(alone.state, together.state, strict=True))
        assert torch.equal(alone.nfe, together.nfe[one])
        assert torch.equal(alone.step.nan_to_num(), together.step[one].nan_to_num())


def test_a_known_slope_and_a_known_step_save_evaluations_and_change_nothing() -> None:
    start, end, state = START[:2], END[:2], (X[:2], torch.zeros(2).double())
    usual = integrate(swinging, start, end, state)
    known = integrate(swinging, start, end, state, first_slope=swinging(start, state))
    assert all(torch.equal(a, b) for a, b in zip(usual.state, known.state, strict=True))
    assert torch.equal(known.nfe, usual.nfe - 1)
    given = integrate(swinging, start, end, state, first_step=torch.tensor([0.1, torch.nan]).double())
    assert int((given.nfe[0] - 1) % 6) == 0
    assert torch.equal(given.state[0][1], usual.state[0][1])


def test_rows_that_have_arrived_stay_whatever_the_model_reports_there() -> None:
    def rhs(log_snr: Tensor, state: State) -> State:
        wrong = torch.where(log_snr >= 1, torch.nan, -1.0).double()
        return (torch.where(log_snr == 1, wrong, -torch.ones_like(wrong))[:, None] * state[0],)

    start, end = torch.tensor([1.0, -1.0, 0.0]).double(), torch.tensor([1.0, 0.5, 0.9]).double()
    solved = integrate(rhs, start, end, (torch.ones(3, 2).double(),), rtol=1e-8, atol=1e-8)
    assert torch.allclose(solved.state[0][:, 0], torch.exp(start - end), rtol=1e-6)


def test_it_reports_where_it_got_stuck() -> None:
    def nan_above_two(log_snr: Tensor, state: State) -> State:
        return (torch.where(log_snr > 2, torch.nan, 1.0).double()[:, None] * torch.ones_like(state[0]),)

    zero, x = torch.zeros(2).double(), torch.zeros(2, 1).double()
    end = torch.tensor([1.0, 3.0]).double()
    with pytest.raises(RunError, match=r"log-SNR 2 \(sample 1 of the batch.*steps became too small"):
        integrate(nan_above_two, zero, end, (x,))
    with pytest.raises(RunError, match=r"log-SNR .* max_evaluations=50 is not enough"):
        integrate(swinging, START[:2], END[:2], (X[:2], zero), rtol=1e-9, atol=1e-9, max_evaluations=50)
    with pytest.raises(UsageError, match="rtol and atol must be above 0"):
        integrate(nan_above_two, zero, zero, (x,), rtol=0)


def test_one_row_costs_about_what_torchdiffeq_takes() -> None:
    calls = [0]

    def rhs(log_snr: Tensor, x: Tensor) -> Tensor:
        calls[0] += 1
        return torch.cos(3 * log_snr) * x - 0.2 * x * x

    theirs = torchdiffeq.odeint(rhs, X[0], torch.stack([START[0], END[0]]), rtol=1e-6, atol=1e-6, method="dopri5")[-1]
    ours = integrate(swinging, START[:1], END[:1], (X[:1], torch.zeros(1).double()), rtol=1e-6, atol=1e-6)
    assert torch.allclose(ours.state[0][0], theirs, atol=2e-5)
    assert 0.5 < int(ours.nfe[0]) / calls[0] < 1.5


@pytest.mark.parametrize("process_name", PROCESSES)
def test_the_coordinates_ode_is_the_probability_flow(process_name: str) -> None:
    """d x~ / d lambda along the closed form's own trajectory: each point keeps its place in the marginal."""
    process, place = PROCESSES[process_name](), torch.tensor([[1.3, -0.4]]).double()

    def tilde(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        t = process.time_of_log_snr(log_snr)
        mean, std = marginal(DATA, process, t)
        return (mean + std * place) / process.norm(t), t

    for log_snr in torch.tensor([-5.0, 0.1, 4.0]).double().split(1):
        x, t = tilde(log_snr)
        difference = (tilde(log_snr + 1e-4)[0] - tilde(log_snr - 1e-4)[0]) / 2e-4
        x_0 = DATA.denoiser(process)(process.norm(t) * x, t).x_0
        assert torch.allclose(slope(log_snr, x, x_0), difference, rtol=1e-6, atol=1e-8)


def solved_in_one_step(process: Process, rtol: float) -> tuple[float, int]:
    """Error and evaluations of one step of rk45 over (almost) all of the process, on Gaussian data."""
    times = time_grid("log_snr", process, 3 if float(process.alpha(torch.ones(1))) == 0 else 2)[:-1]
    place = SeededNoise([1, 2, 3]).prior(torch.empty(3, 2, dtype=torch.float64))
    (mean, std), (last_mean, last_std) = marginal(DATA, process, times[0]), marginal(DATA, process, times[-1])
    result = sample(
        DATA.denoiser(process),
        make_sampler(f"rk45:rtol={rtol}"),
        times,
        shape=(2,),
        seeds=[1, 2, 3],
        x_start=mean + std * place,
        finish=False,
        dtype=torch.float64,
    )
    return float((result.x - last_mean - last_std * place).abs().max()), result.nfe


@pytest.mark.parametrize("process_name", PROCESSES)
def test_one_step_spans_the_whole_process(process_name: str) -> None:
    process = PROCESSES[process_name]()
    if float(process.alpha(torch.ones(1))) == 0:
        times = torch.tensor([1.0, 0.002]).double()
        place = torch.tensor([[1.5, -0.7]]).double()
        result = sample(
            DATA.denoiser(process), make_sampler("rk45"), times, shape=(2,), seeds=[1], x_start=place, finish=False
        )
        mean, std = marginal(DATA, process, times[-1])
        assert float((result.x - mean - std * place).abs().max()) < 1e-3
        return
    (loose, few), (tight, many) = (solved_in_one_step(process, rtol) for rtol in (1e-3, 1e-7))
    assert loose < 50e-3
    assert tight < 50e-7
    assert few < 70 < many < 500


def test_a_grid_of_many_steps_costs_little_more_per_unit_of_log_snr() -> None:
    """The step size goes on from step to step, so no step of a fine grid guesses it again."""
    process = PROCESSES["vp"]()
    times = time_grid("log_snr", process, 21)
    nfe = sample(DATA.denoiser(process), make_sampler("rk45"), times, shape=(2,), seeds=[1], dtype=torch.float64).nfe
    least = 1 + 20 * 7 + 1  # one guess; an evaluation and one step of six each time; x_0-hat
    assert least <= nfe <= least + 6  # the guess may be short


def test_a_tolerance_out_of_range_is_rejected() -> None:
    for spec in ("rk45:rtol=0", "rk45:rtol=1", "rk45:rtol=nan"):
        with pytest.raises(UsageError, match="tolerance rtol"):
            make_sampler(spec)
