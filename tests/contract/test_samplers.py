"""What every row of ``SAMPLERS`` keeps to, on every process: shapes, types, ends, counts, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_product import sparse_product
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.errors import UsageError
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, Progress, sample
from undiffuse.samplers.grids import GRIDS, time_grid
from undiffuse.samplers.noise import NoiseSource, SeededNoise

DATA = GaussianMixture(torch.full((2, 12), 0.5) * torch.tensor([[1.0], [-1.0]]), torch.full((2,), 0.01))
SHAPE = (3, 2, 2)

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_process = pytest.mark.parametrize("process_name", PROCESSES)


def draw(name: str, process_name: str, seeds: list[int], **options: Any) -> Tensor:
    process = PROCESSES[process_name]()
    times = options.pop("times", time_grid("uniform", process, 4))
    return sample(DATA.denoiser(process), make_sampler(name), times, shape=SHAPE, seeds=seeds, **options).x


@every_sampler
def test_it_states_its_facts(name: str) -> None:
    sampler = make_sampler(name)
    assert sampler.name == name
    assert sampler.order >= 0
    assert sampler.max_nfe_per_step >= 1
    assert sampler.source.startswith("arXiv:")
    assert isinstance(sampler.stochastic, bool)


@pytest.mark.parametrize(
    ("name", "process_name", "dtype"), sparse_product(SAMPLERS, PROCESSES, [torch.float32, torch.float64])
)
def test_shape_dtype_determinism_and_no_nan_from_end_to_end(name: str, process_name: str, dtype: torch.dtype) -> None:
    x = draw(name, process_name, [3, 5, 8], dtype=dtype)
    assert x.shape == (3, *SHAPE)
    assert x.dtype == dtype
    assert bool(x.isfinite().all())
    assert torch.equal(x, draw(name, process_name, [3, 5, 8], dtype=dtype))
    assert not torch.equal(x[:1], draw(name, process_name, [4], dtype=dtype))


#: Begins with so little signal that a correction flies off, on some grids: all of them are tried.
NO_SIGNAL = "ddpm_cosine"
OTHERS = [name for name in PROCESSES if name != NO_SIGNAL]


@pytest.mark.parametrize(
    ("name", "process_name", "grid"),
    [*sparse_product(SAMPLERS, OTHERS, GRIDS), *sparse_product(SAMPLERS, [NO_SIGNAL], GRIDS, every=1)],
)
@pytest.mark.parametrize("num_steps", [1, pytest.param(2, marks=pytest.mark.slow), 12])
def test_it_survives_every_grid(name: str, process_name: str, grid: str, num_steps: int) -> None:
    x = draw(name, process_name, [1, 2], times=time_grid(grid, PROCESSES[process_name](), num_steps))
    assert bool(x.isfinite().all())
    if num_steps > 2:  # two steps may be far too long for a method of second order
        assert float(x.abs().max()) < 2  # two tight modes at +-0.5


@every_process
@every_sampler
def test_without_a_final_step_it_may_still_go_to_zero(name: str, process_name: str) -> None:
    kept, finished = (draw(name, process_name, [1], finish=finish, dtype=torch.float64) for finish in (False, True))
    if float(PROCESSES[process_name]().sigma(torch.zeros(1))) == 0:
        assert torch.allclose(kept, finished, rtol=1e-6, atol=1e-6)
    else:  # noise is left at t = 0
        assert bool(kept.isfinite().all())
        assert not torch.equal(kept, finished)


@every_process
@every_sampler
def test_where_noise_is_left_the_last_step_still_goes_to_x_0(name: str, process_name: str) -> None:
    times = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    finished = draw(name, process_name, [1, 2], times=times)
    noisy = draw(name, process_name, [1, 2], times=times, finish=False)
    assert not torch.allclose(finished, noisy, atol=1e-3)
    seen: list[Progress] = []
    again = draw(name, process_name, [1, 2], times=times, callback=seen.append)
    assert torch.equal(again, finished)
    assert torch.equal(seen[-1].x_0, finished)


@every_process
@every_sampler
def test_no_rows_at_all(name: str, process_name: str) -> None:
    assert draw(name, process_name, []).shape == (0, *SHAPE)


@every_sampler
def test_evaluations_are_counted_and_no_more_than_stated(name: str) -> None:
    process, count = FlowProcess(), [0]

    class Counting(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = process

        def forward(self, x_t: Tensor, t: Tensor, cond: object = None, evaluation: Any = None) -> Denoised:
            count[0] += 1
            return DATA.denoiser(process)(x_t, t)

    sampler = make_sampler(name)
    result = sample(Counting(), sampler, time_grid("uniform", process, 5), shape=SHAPE, seeds=[1, 2])
    assert result.nfe == count[0] <= 5 * sampler.max_nfe_per_step


def test_heun_costs_one_less_than_two_a_step() -> None:
    process = PROCESSES["vp"]()
    times = time_grid("uniform", process, 5)
    assert sample(DATA.denoiser(process), make_sampler("heun"), times, shape=SHAPE, seeds=[1]).nfe == 9


@every_sampler
def test_the_callback_sees_every_step(name: str) -> None:
    seen: list[Progress] = []
    x = draw(name, "flow", [1, 2], callback=seen.append)
    assert [(progress.index, progress.count) for progress in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert all(progress.x.shape == progress.x_0.shape == x.shape for progress in seen)
    assert torch.equal(seen[-1].x, x)


@every_process
def test_it_starts_from_the_prior(process_name: str) -> None:
    seen: list[Tensor] = []
    process = PROCESSES[process_name]()

    class Watching(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = process

        def forward(self, x_t: Tensor, t: Tensor, cond: object = None, evaluation: Any = None) -> Denoised:
            seen.append(x_t)
            return Denoised(x_t)

    sample(Watching(), make_sampler("euler"), torch.tensor([1.0, 0.0]), shape=SHAPE, seeds=range(500))
    assert float(seen[0].std()) == pytest.approx(process.prior_std, rel=0.05)
    assert torch.equal(seen[0], process.prior_std * SeededNoise(range(500)).prior(seen[0]))


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dimm", "did you mean 'ddim'"),
        ("", "unknown sampler"),
        ("ddim:eat=1", "did you mean 'eta'"),
        ("heun:order=2", "it has none"),
        ("ddim:eta=much", "a number, got 'much'"),
        ("ddim:eta=", "a number, got ''"),
        ("ddim:eta", "a number"),
        ("ddim:eta=1.5", "eta must be in"),
        ("ddim:eta=nan", "eta must be in"),
        ("ancestral:variance=gamma", "'beta_tilde', 'beta' or 'learned', got 'gamma'"),
    ],
)
def test_a_sampler_that_makes_no_sense_is_rejected(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_sampler(spec)


@pytest.mark.parametrize("spec", ["ddim", "ddim:", "ddim:eta=0", "ddim:eta=0.0,"])
def test_options_may_be_left_out(spec: str) -> None:
    assert not make_sampler(spec).stochastic


@pytest.mark.parametrize(
    "times",
    [[0.5], [], [[1.0, 0.0]], [0.5, 0.5], [0.2, 0.6], [1.1, 0.0], [0.5, -0.1], [math.nan, 0.0], [1.0, math.nan]],
)
def test_times_that_do_not_descend_are_rejected(times: list[float]) -> None:
    with pytest.raises(UsageError, match="times must"):
        draw("euler", "flow", [1], times=torch.tensor(times))


@pytest.mark.parametrize("seeds", [[-1], [2**64]])
def test_seeds_outside_64_bits_are_rejected(seeds: list[int]) -> None:
    with pytest.raises(UsageError, match="seeds must be integers"):
        SeededNoise(seeds)


def test_noise_for_another_number_of_rows_is_rejected() -> None:
    with pytest.raises(UsageError, match="2 seeds for 3 samples"):
        SeededNoise([1, 2]).prior(torch.empty(3, 1))
    with pytest.raises(UsageError, match="call at"):
        SeededNoise([1]).normal(torch.empty(1, 1))


def test_the_base_of_noise_sources_promises_nothing() -> None:
    for call in (lambda n: n.at(torch.zeros(1)), lambda n: n.prior(torch.zeros(1)), lambda n: n.normal(torch.zeros(1))):
        with pytest.raises(NotImplementedError):
            call(NoiseSource())


def test_blocks_of_no_rows_are_rejected_and_none_requested_gives_none() -> None:
    denoiser = DATA.denoiser(FlowProcess())
    with pytest.raises(UsageError, match="at least 1 sample"):
        FixedBatchDenoiser(denoiser, 0)
    assert FixedBatchDenoiser(denoiser, 4)(torch.empty(0, *SHAPE), torch.empty(0)).x_0.shape == (0, *SHAPE)
