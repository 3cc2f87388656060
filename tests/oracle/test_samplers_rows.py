"""Each row of a batch gets, bit for bit, what it would get alone: on its own grid, at its own time, joining late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from exact_moments import SPECS
from torch import Tensor

from sparse_product import sparse_product
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.denoiser import Denoiser, NetworkDenoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.networks import UNetConfig, build_network
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, Memory, Sampler, Steps, sample
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise

DATA = GaussianMixture.ring(8)


@dataclass
class Request:
    """One image being sampled by a server: its seed, its grid, the tick at which it joins, where it is."""

    seed: int
    times: Tensor
    joins: int
    x: Tensor
    memory: Memory
    done: int = 0

    @property
    def count(self) -> int:
        return len(self.times) - 1


def requests(process: Process, sampler: Sampler) -> list[Request]:
    """Four rows on four grids of different lengths that join at different ticks."""
    created = []
    for seed, (grid, num_steps, joins) in enumerate(
        [("uniform", 6, 0), ("log_snr", 5, 2), ("karras", 9, 1), ("quadratic", 1, 3)], start=40
    ):
        like = torch.empty(1, 2, dtype=torch.float64)
        times = time_grid(grid, process, num_steps)
        x = process.start_std(float(times[0])) * SeededNoise([seed]).prior(like)
        created.append(Request(seed, times, joins, x, sampler.init(x)))
    return created


def advance(denoiser: Denoiser, sampler: Sampler, active: list[Request]) -> None:
    """One step of every active row, in one call."""
    index = torch.tensor([row.done for row in active])
    steps = Steps(
        t=torch.stack([row.times[row.done] for row in active]),
        s=torch.stack([row.times[row.done + 1] for row in active]),
        index=index,
        count=torch.tensor([row.count for row in active]),
        final=torch.tensor([row.done + 1 == row.count for row in active]),
    )
    memory = tuple(torch.cat(parts) for parts in zip(*(row.memory for row in active), strict=True))
    noise = SeededNoise([row.seed for row in active]).at(index)
    x, memory = sampler.step(denoiser, torch.cat([row.x for row in active]), steps, memory, noise)
    for number, row in enumerate(active):
        row.x, row.memory = x[number : number + 1], tuple(part[number : number + 1] for part in memory)
        row.done += 1


@pytest.mark.parametrize(("spec", "process_name"), sparse_product(SPECS, PROCESSES, every=3))
def test_rows_that_come_and_go_get_what_they_get_alone(spec: str, process_name: str) -> None:
    process, sampler = PROCESSES[process_name](), make_sampler(spec)
    denoiser = DATA.denoiser(process)
    rows = requests(process, sampler)
    for tick in range(max(row.joins + row.count for row in rows)):
        advance(denoiser, sampler, [row for row in rows if row.joins <= tick < row.joins + row.count])
    for row in rows:
        alone = sample(denoiser, sampler, row.times, shape=(2,), seeds=[row.seed], dtype=torch.float64).x
        assert torch.equal(row.x, alone)


@pytest.mark.parametrize("spec", SPECS)
def test_a_sample_depends_on_its_own_seed_alone(spec: str) -> None:
    process, sampler = FlowProcess(), make_sampler(spec)
    times = time_grid("uniform", process, 5)
    seeds = [7, 2**64 - 1, 0, 7, 123456789]
    together = sample(DATA.denoiser(process), sampler, times, shape=(2,), seeds=seeds).x
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])
    for row, seed in enumerate(seeds):
        alone = sample(DATA.denoiser(process), sampler, times, shape=(2,), seeds=[seed]).x
        assert torch.equal(together[row : row + 1], alone)


def test_noise_is_a_function_of_seed_step_and_draw() -> None:
    like = torch.empty(3, 4, 5)
    mixed = SeededNoise([1, 2, 1]).at(torch.tensor([0, 5, 5]))
    first, second = mixed.normal(like), mixed.normal(like)
    for row, (seed, index) in enumerate([(1, 0), (2, 5), (1, 5)]):
        source = SeededNoise([seed]).at(torch.tensor([index]))
        assert torch.equal(source.normal(like[:1])[0], first[row])
        assert torch.equal(source.normal(like[:1])[0], second[row])
    draws = torch.cat([first, second, SeededNoise([1, 2, 1]).prior(like)[:2]]).flatten(1)
    assert len({tuple(row.tolist()) for row in draws}) == len(draws)  # no two of them coincide


def test_large_seeds_that_differ_by_one_differ() -> None:
    seeds = [2**64 - 1, 2**64 - 2, 2**63, 2**63 + 1, 2**63 - 1, 2**53, 2**53 + 1]
    draws = SeededNoise(seeds).prior(torch.empty(len(seeds), 3))
    assert len({tuple(row) for row in draws.tolist()}) == len(seeds)


def test_noise_is_standard_normal_and_drawn_in_float32() -> None:
    like = torch.empty(64, 1000, dtype=torch.float64)
    draws = SeededNoise(range(64)).at(torch.full((64,), 3)).normal(like)
    assert draws.dtype == torch.float64
    assert torch.equal(draws, draws.float().double())
    assert abs(float(draws.mean())) < 4 / 64000**0.5
    assert abs(float(draws.var()) - 1) < 4 * (2 / 64000) ** 0.5
    neighbours = (draws[:-1] * draws[1:]).mean()
    assert abs(float(neighbours)) < 4 / 63000**0.5  # neighbouring seeds are not correlated


def test_selected_rows_keep_their_noise() -> None:
    index, like = torch.tensor([4, 4]), torch.empty(2, 6)
    whole = SeededNoise([10, 11, 12]).at(torch.tensor([4, 4, 4])).normal(torch.empty(3, 6))
    assert torch.equal(SeededNoise([10, 11, 12]).select([2, 0]).at(index).normal(like), whole[[2, 0]])


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    """A small U-Net with attention, in evaluation mode, whose output is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UNetConfig(channels=16, multipliers=(1, 2), num_blocks=1, dropout=0.1)
        network = build_network(config, (1, 8, 8), ConditionSpec.of_classes(3))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if not bool(parameter.any()) else None
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("spec", ["heun", "ancestral"])
def test_fixed_batches_make_images_independent_of_the_batch_size(
    unet: torch.nn.Module, spec: str, autocast: torch.dtype | None
) -> None:
    process = FlowProcess()
    denoiser = NetworkDenoiser(unet, Parameterization("flow", process), autocast=autocast)
    times, labels = time_grid("uniform", process, 3), torch.tensor([0, 1, 2, -1, 0, 1, 2])

    def images(rows: list[int]) -> Tensor:
        cond = Condition(label=labels[rows])
        result = sample(
            FixedBatchDenoiser(denoiser, 4), make_sampler(spec), times, shape=(1, 8, 8), seeds=rows, cond=cond
        )
        return result.x

    together = images(list(range(7)))
    assert bool(together.isfinite().all())
    assert float(together.std(0).mean()) > 0.1
    for rows in ([0], [3, 1], [6, 5, 4], [2, 6, 0, 4, 5]):
        assert torch.equal(images(rows), together[rows])


def test_blocks_keep_a_learned_variance() -> None:
    class WithVariance(Denoiser):
        process = FlowProcess()

        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None):  # type: ignore[no-untyped-def]
            assert len(x_t) == 4
            return DATA.denoiser(self.process)(x_t, t)._replace(variance_mix=x_t / 9)

    x, t = torch.randn(6, 2), torch.linspace(0.1, 0.9, 6)
    blocked = FixedBatchDenoiser(WithVariance(), 4)(x, t)
    assert torch.equal(blocked.x_0, DATA.denoiser(FlowProcess())(x, t).x_0)
    assert blocked.variance_mix is not None
    assert torch.equal(blocked.variance_mix, x / 9)
