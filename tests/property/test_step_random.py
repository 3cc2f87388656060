"""Training's randomness is a function of (seed, stream, step, micro-batch, purpose) and of nothing else."""

from __future__ import annotations

import itertools

import torch

from undiffuse.core.random import StepRandom, derived_seed


def test_seeds_differ_wherever_a_part_differs() -> None:
    parts = [*itertools.product(range(4), ["train", "validation"], range(4), range(3)), (1, 12), (11, 2), (112,)]
    seeds = {derived_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_draw_is_repeated_whatever_was_drawn_before() -> None:
    like = torch.empty(2, 3)
    first, second = StepRandom(1, 2, 3), StepRandom(1, 2, 3)
    second.uniform(100, "time")
    torch.randn(7)
    assert torch.equal(first.normal(like, "noise"), second.normal(like, "noise"))
    assert torch.equal(first.uniform(5, "time"), second.uniform(5, "time"))


def test_draws_differ_between_keys_and_purposes() -> None:
    like = torch.empty(4)
    sources = [
        *(StepRandom(seed, step, micro) for seed in (0, 1) for step in (0, 1) for micro in (0, 1)),
        StepRandom(0, 0, stream="validation"),
    ]
    draws = [tuple(source.normal(like, purpose).tolist()) for source in sources for purpose in ("noise", "other")]
    assert len(set(draws)) == len(draws)


def test_uniform_is_open_and_float64_and_normal_follows_its_like() -> None:
    source = StepRandom(0, 0)
    u = source.uniform(10000, "time")
    assert u.dtype == torch.float64
    assert bool(((u > 0) & (u < 1)).all())
    assert abs(float(u.mean()) - 0.5) < 4 / (12 * 10000) ** 0.5
    noise = source.normal(torch.empty(100, 100, dtype=torch.float64), "noise")
    assert noise.dtype == torch.float64
    assert abs(float(noise.std()) - 1) < 0.03


def test_layers_draw_the_same_and_leave_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    with StepRandom(5, 6).layers():
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    with StepRandom(5, 6).layers():
        assert torch.equal(torch.rand(3), first)
    with StepRandom(5, 7).layers():
        assert not torch.equal(torch.rand(3), first)
