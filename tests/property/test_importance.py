"""Draws of times: uniform one by one whatever goes together, and unbiased where they follow the loss."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.losses.importance import HISTORY, UNIFORM_SHARE, ImportanceDraws


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_history(sizes: Tensor) -> ImportanceDraws:
    """Knot k has seen losses of root mean square ``sizes[k]``."""
    draws, num_steps = ImportanceDraws(len(sizes)), len(sizes)
    t = (torch.arange(num_steps, dtype=torch.float64) + 1) / num_steps
    for number in range(HISTORY):
        draws.record(t, sizes * (1 if number % 2 else -1))
    return draws


# --- how the uniform numbers of a micro-batch go together -----------------------------------------------------------


@pytest.mark.parametrize("name", UNIFORM_DRAWS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_numbers_stay_inside_the_open_interval(name: str, count: int) -> None:
    full = partial(torch.full, (count,), dtype=torch.float64)
    for u in (uniforms(count), full(2.0**-54), full(1 - 2.0**-53)):
        drawn = UNIFORM_DRAWS[name](u)
        assert drawn.shape == (count,) and drawn.dtype == torch.float64
        assert bool(((drawn > 0) & (drawn < 1)).all())


@pytest.mark.parametrize("name", UNIFORM_DRAWS)
@pytest.mark.parametrize("row", [0, 2, 4])
def test_what_each_row_or_the_whole_batch_draws_is_uniform(name: str, row: int) -> None:
    """Rows at their place (low discrepancy, independent), or a random row of the batch (stratified)."""
    fine = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    batches = torch.stack([UNIFORM_DRAWS[name](fine.roll(-index)[:5]) for index in range(1000)])
    drawn = batches.flatten() if name == "stratified" else batches[:, row]
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    assert torch.equal(counts, torch.full_like(counts, len(drawn) / 10))


@given(seed=st.integers(0, 10**6), count=st.integers(1, 50))
def test_low_discrepancy_draws_stand_at_equal_distance(seed: int, count: int) -> None:
    drawn = UNIFORM_DRAWS["low_discrepancy"](uniforms(count, seed)).sort().values
    gaps = torch.diff(drawn, append=drawn[:1] + 1)
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / count), rtol=0, atol=1e-12)


def test_low_discrepancy_has_one_shift_a_batch_and_stratified_one_a_row() -> None:
    u, other = uniforms(6), torch.cat([uniforms(6)[:1], uniforms(5, 1)])
    assert torch.equal(UNIFORM_DRAWS["low_discrepancy"](u), UNIFORM_DRAWS["low_discrepancy"](other))
    assert not torch.equal(UNIFORM_DRAWS["stratified"](u), UNIFORM_DRAWS["stratified"](other))
    assert torch.equal(torch.floor(UNIFORM_DRAWS["stratified"](u) * 6), torch.arange(6).double())


# --- importance -----------------------------------------------------------------------------------------------------


def test_knots_are_drawn_in_proportion_to_the_root_of_their_mean_square_loss() -> None:
    sizes = torch.tensor([4.0, 1.0, 0.5, 2.5], dtype=torch.float64)
    expected = (1 - UNIFORM_SHARE) * sizes / 8 + UNIFORM_SHARE / 4
    draws = with_history(sizes)
    assert torch.allclose(draws.probabilities(), expected, rtol=1e-12)
    u = (torch.arange(80_000, dtype=torch.float64) + 0.5) / 80_000
    t, weight = draws.draw(u)
    shares = torch.bincount((t * 4).round().long() - 1, minlength=4) / len(u)
    assert torch.allclose(shares.double(), expected, atol=1e-4)
    assert torch.allclose(weight, 1 / (4 * expected[(t * 4).round().long() - 1]), rtol=1e-12)


def test_the_root_is_of_the_mean_square_and_not_of_the_square_of_the_mean() -> None:
    draws = ImportanceDraws(2)
    both = torch.tensor([0.5, 1.0]).double()
    for number in range(HISTORY):
        draws.record(both, torch.tensor([1.0, 2.0 if number % 2 else 0.0]).double())
    p = draws.probabilities()
    assert float((p[1] - UNIFORM_SHARE / 2) / (p[0] - UNIFORM_SHARE / 2)) == pytest.approx(math.sqrt(2))


@given(seed=st.integers(0, 10**6), num_steps=st.integers(1, 40))
def test_the_weighted_loss_has_the_plain_mean(seed: int, num_steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = with_history(torch.rand(num_steps, dtype=torch.float64, generator=generator).exp())
    losses = torch.randn(num_steps, dtype=torch.float64, generator=generator)
    p = draws.probabilities()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    # one u in the middle of each knot's share of (0, 1), which is p long
    t, weight = draws.draw((torch.cumsum(p, 0) - p / 2).clamp(0, 1 - 2.0**-53))
    assert torch.equal((t * num_steps).round().long(), torch.arange(num_steps) + 1)
    assert float((p * weight * losses).sum()) == pytest.approx(float(losses.mean()), rel=1e-9, abs=1e-12)


def test_all_knots_are_alike_until_each_has_its_history() -> None:
    draws = ImportanceDraws(3)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    for _ in range(HISTORY - 1):
        draws.record(torch.tensor([1 / 3, 2 / 3, 1.0]), torch.tensor([1.0, 10.0, 100.0]))
    draws.record(torch.tensor([1 / 3, 2 / 3]), torch.tensor([1.0, 10.0]))
    assert torch.equal(draws.probabilities(), uniform)
    t, weight = draws.draw(torch.tensor([0.1, 0.5, 0.9]).double())
    assert torch.equal(t, torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64))
    assert torch.allclose(weight, torch.ones(3).double())
    draws.record(torch.tensor([1.0]), torch.tensor([100.0]))
    assert not torch.allclose(draws.probabilities(), uniform)


@given(seed=st.integers(0, 10**6), splits=st.integers(1, 5))
def test_the_last_ten_are_remembered_however_they_come(seed: int, splits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    knots = torch.randint(1, 4, (60,), generator=generator)
    losses = torch.randn(60, dtype=torch.float64, generator=generator)
    draws = ImportanceDraws(3)
    for k, loss in zip(knots.tensor_split(splits), losses.tensor_split(splits), strict=True):
        draws.record(k / 3, loss)
    for knot in (1, 2, 3):
        seen = losses[knots == knot]
        assert int(draws.counts[knot - 1]) == len(seen)
        kept = draws.losses[knot - 1]
        expected = torch.cat([torch.zeros(HISTORY), seen])[-HISTORY:].double()
        assert torch.equal(kept.sort().values, expected.sort().values)


def test_losses_that_are_not_finite_leave_no_trace() -> None:
    draws = with_history(torch.tensor([1.0, 2.0]).double())
    before = {name: value.clone() for name, value in draws.state_dict().items()}
    draws.record(torch.tensor([0.5, 1.0]), torch.tensor([3.0, math.nan]))
    assert all(torch.equal(value, before[name]) for name, value in draws.state_dict().items())


def test_losses_of_nothing_leave_the_draws_uniform() -> None:
    assert torch.equal(with_history(torch.zeros(4).double()).probabilities(), torch.full((4,), 0.25).double())


def test_its_state_is_all_there_is() -> None:
    draws, copy = with_history(torch.tensor([1.0, 2.0, 5.0]).double()), ImportanceDraws(3)
    copy.load_state_dict(draws.state_dict())
    u = uniforms(20)
    assert all(torch.equal(a, b) for a, b in zip(draws.draw(u), copy.draw(u), strict=True))


def test_the_outermost_numbers_fall_on_the_outermost_knots() -> None:
    draws = with_history(torch.tensor([1.0, 2.0, 5.0]).double())
    t, _ = draws.draw(torch.tensor([2.0**-54, 1 - 2.0**-53], dtype=torch.float64))
    assert t.tolist() == [1 / 3, 1.0]
