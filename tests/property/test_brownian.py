"""The Brownian path of a seed: its law, that grids share it, and that nothing but the seed decides it."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.samplers.noise import NoiseSource, SeededNoise

#: Many elements of one row stand for many draws.
NUM = 4000
log_snrs = st.lists(st.floats(-20, 20), min_size=3, max_size=3, unique=True).map(sorted)


def increments(seed: int, knots: list[float], num: int = NUM) -> Tensor:
    """Normalised increments of one seed's path between neighbouring SNRs, ``(len(knots) - 1, num)``."""
    like, noise = torch.empty(1, num, dtype=torch.float64), SeededNoise([seed])
    ends = torch.tensor(knots, dtype=torch.float64).reshape(-1, 1)
    return torch.cat([noise.brownian(low, high, like) for low, high in pairwise(ends)])


def assert_standard_normal(draws: Tensor) -> None:
    assert abs(float(draws.mean())) < 4.5 / len(draws) ** 0.5
    assert abs(float(draws.square().mean()) - 1) < 4.5 * (2 / len(draws)) ** 0.5
    assert abs(float(draws.pow(4).mean()) - 3) < 4.5 * (96 / len(draws)) ** 0.5


@settings(max_examples=25, deadline=None)
@given(log_snrs, st.integers(0, 2**64 - 1))
@example([0.0, 0.055553500124339905, 0.5], 0)  # so short a step that where its nodes lie shows by a thousandth
def test_two_half_steps_are_the_whole_step(logs: list[float], seed: int) -> None:
    nodes = [round(value * 2**12) for value in logs]
    if len(set(nodes)) < 3:  # what meets on one node counts as a step of one node
        return
    requested = [math.exp(value) for value in logs]
    low, middle, high = (math.exp(node / 2**12) for node in nodes)  # the lengths of the steps are between the nodes
    first, second = increments(seed, requested, 50)
    (whole,) = increments(seed, requested[::2], 50)
    together = math.sqrt(middle - low) * first + math.sqrt(high - middle) * second
    assert torch.allclose(together / math.sqrt(high - low), whole, rtol=0, atol=1e-5)


def test_a_fine_grid_adds_up_to_a_coarse_one() -> None:
    fine = [0.0, *torch.logspace(-3, 4, 57, base=math.e, dtype=torch.float64).tolist()]
    lengths = torch.tensor(fine, dtype=torch.float64).diff().sqrt()[:, None]
    summed = (lengths * increments(5, fine, 20)).sum(0) / math.sqrt(fine[-1])
    assert torch.allclose(summed, increments(5, [0.0, fine[-1]], 20)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 0.01),
        (1.0, 1.0 + 1e-9),  # shorter than the nodes are apart
        (1.0, 1.0),
        (0.3, 0.31),
        (2.0, 5e5),
        (1e3, math.inf),
        (0.0, math.inf),
        (0.0, 1e-40),
        (1e-40, 1e-39),
        (1e20, math.inf),
        (math.inf, math.inf),
    ],
)
def test_an_increment_is_standard_normal_whatever_the_step(low: float, high: float) -> None:
    assert_standard_normal(increments(11, [low, high])[0])


@settings(max_examples=10, deadline=None)
@given(st.floats(-12, 12), st.floats(1e-3, 3), st.floats(1e-3, 3))  # a step of a node or less shares its node
def test_steps_that_do_not_overlap_are_independent(start: float, first: float, second: float) -> None:
    knots = [math.exp(start + shift) for shift in (0.0, first, first + second)]
    before, after = increments(3, [0.0, *knots])[1:]
    assert abs(float((before * after).mean())) < 4.5 / NUM**0.5
    assert abs(float((before.square() * after.square()).mean()) - 1) < 4.5 * (8 / NUM) ** 0.5


def test_steps_that_overlap_share_what_they_share() -> None:
    wide, part = increments(4, [1.0, 4.0])[0], increments(4, [1.0, 2.0])[0]
    assert abs(float((wide * part).mean()) - 3**-0.5) < 4.5 / NUM**0.5


def test_the_path_depends_on_the_seed_alone() -> None:
    like, low, high = torch.empty(3, 4, 5), torch.tensor([1.0, 0.0, 7.0]), torch.tensor([2.0, 3.0, torch.inf])
    seeds = [9, 2**64 - 1, 0]
    together = SeededNoise(seeds).brownian(low, high, like)
    later = SeededNoise(seeds).at(torch.tensor([5, 0, 900]))
    later.normal(like)
    assert torch.equal(later.brownian(low, high, like), together)  # neither the step nor the draws before it matter
    for row, seed in enumerate(seeds):
        one = slice(row, row + 1)
        assert torch.equal(SeededNoise([seed]).brownian(low[one], high[one], like[one]), together[one])
    assert torch.equal(SeededNoise(seeds).select([2]).brownian(low[2:], high[2:], like[2:]), together[2:])


def test_seeds_have_paths_of_their_own_even_large_ones() -> None:
    seeds = [2**64 - 1, 2**64 - 2, 2**63, 2**63 + 1, 2**53, 2**53 + 1, 0, 1]
    one = torch.ones(len(seeds), dtype=torch.float64)
    rows = SeededNoise(seeds).brownian(one, 2 * one, torch.empty(len(seeds), NUM))
    assert float((torch.corrcoef(rows) - torch.eye(len(seeds))).abs().max()) < 5 / NUM**0.5
    fresh = SeededNoise(seeds).at(torch.zeros(len(seeds), dtype=torch.int64)).normal(rows)
    assert abs(float((fresh * rows).mean())) < 4.5 / rows.numel() ** 0.5  # nor does it meet the fresh noise


def test_it_is_cast_last_and_takes_no_rows() -> None:
    one, like = torch.ones(2, dtype=torch.float64), torch.empty(2, 6, dtype=torch.float64)
    exact = SeededNoise([1, 2]).brownian(one, 2 * one, like)
    assert torch.equal(SeededNoise([1, 2]).brownian(one, 2 * one, like.float()), exact.float())
    assert SeededNoise([]).brownian(one[:0], one[:0], like[:0]).shape == (0, 6)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_steps_that_make_no_sense_are_rejected(low: float, high: float) -> None:
    with pytest.raises(UsageError, match=re.escape(f"got {low} and {high}")):
        increments(1, [low, high])


def test_rows_and_seeds_must_match_and_the_base_promises_nothing() -> None:
    one, like = torch.ones(3), torch.empty(3, 1)
    with pytest.raises(UsageError, match="2 seeds for 3 samples"):
        SeededNoise([1, 2]).brownian(one, one, like)
    with pytest.raises(NotImplementedError):
        NoiseSource().brownian(one, one, like)
