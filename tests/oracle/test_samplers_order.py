"""Every sampler's measured order of convergence on Gaussian data, at two end times, from exact moments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from exact_moments import SPECS, PathsOfGaussian, marginal, output_moments

from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.samplers import SAMPLERS, make_sampler

DATA = GaussianMixture.gaussian(torch.tensor([0.6, -0.3]).double(), torch.tensor([0.25, 1.7]).double())
START, ENDS = -6.0, (1.0, 5.0)
STEPS = (32, 64)
#: Below this an error is rounding.
EXACT = 1e-12


def times_between(process: Process, low: float, high: float, num_steps: int) -> torch.Tensor:
    """Times evenly spaced in the log-SNR, both ends included."""
    return process.time_of_log_snr(torch.linspace(low, high, num_steps + 1, dtype=torch.float64))


def error(spec: str, process: Process, end: float, num_steps: int) -> float:
    """2-Wasserstein distance of the sampler's output from the marginal at the end time."""
    times = times_between(process, START, end, num_steps)
    sampler = make_sampler(spec)
    denoiser = PathsOfGaussian(DATA, process) if sampler.for_consistency_models else DATA.denoiser(process)
    mean, std = output_moments(denoiser, sampler, times, *marginal(DATA, process, times[0]))
    true_mean, true_std = marginal(DATA, process, times[-1])
    return float(((mean - true_mean).square() + (std - true_std).square()).sum().sqrt())


def cases() -> Iterator[Any]:
    """Every sampler under every process and to either end time: a sixth of them, in turn, and the rest slow."""
    for (row, process), (column, spec) in product(enumerate(PROCESSES), enumerate(SPECS)):
        for place, end in enumerate(ENDS):
            marks = () if (row + column) % 6 == 3 * place else pytest.mark.slow
            yield pytest.param(spec, process, end, marks=marks, id=f"{spec}-{process}-{end}")


@pytest.mark.parametrize(("spec", "process_name", "end"), cases())
def test_the_measured_order_is_the_stated_one(spec: str, process_name: str, end: float) -> None:
    process = PROCESSES[process_name]()
    coarse, fine = (error(spec, process, end, num_steps) for num_steps in STEPS)
    order, stated = float(torch.log2(torch.tensor(coarse / max(fine, EXACT)))), make_sampler(spec).order
    assert fine < EXACT or order >= stated - 0.15, f"errors {coarse:.2e}, {fine:.2e}: order {order:.2f}"
    assert fine < 0.2 / STEPS[-1] ** max(stated - 1, 0)  # order 0: finer grids do no harm; for the bias, test_langevin


def test_every_row_of_the_registry_is_measured() -> None:
    assert {spec.split(":")[0] for spec in SPECS} == set(SAMPLERS)


@pytest.mark.parametrize("spec", SPECS)
def test_a_stochastic_row_draws_and_a_deterministic_one_does_not(spec: str) -> None:
    process = PROCESSES["vp"]()
    times = times_between(process, START, ENDS[0], 3)
    mean, std = marginal(DATA, process, times[0])
    _, from_nothing = output_moments(DATA.denoiser(process), make_sampler(spec), times, mean, 0 * std)
    assert bool((from_nothing > 0).all()) == make_sampler(spec).stochastic
