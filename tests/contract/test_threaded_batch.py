"""A batch split over threads: function and gradients of the whole, the same bits each time, and errors that get out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from undiffuse.compute.backend import VARIABLE
from undiffuse.compute.threaded_batch import ThreadedBatch, batch_slices, can_split, run_parallel
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import UNetConfig, build_network


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    config = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, dropout=dropout)
    built = build_network(config, (1, 8, 8), ConditionSpec.of_classes(3))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built.double()


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (batch,), generator=generator)
    return x, torch.rand(batch, generator=generator, dtype=torch.float64), Condition(label=labels)


def gradients(module: nn.Module, batch: int, to_input: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x, c_noise, cond = inputs(batch)
    x.requires_grad_(to_input)
    out = module(x, c_noise, cond)
    wanted = [*(p for p in module.parameters()), *([x] if to_input else [])]
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out.detach(), [
        g for g in torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True) if g is not None
    ]


@pytest.mark.parametrize("batch", [8, 9, 13, 64])
@pytest.mark.parametrize("to_input", [False, True])
def test_output_and_gradients_are_those_of_the_whole(batch: int, to_input: bool) -> None:
    plain = network()
    out, expected = gradients(plain, batch, to_input)
    found, got = gradients(ThreadedBatch(plain), batch, to_input)
    assert len(batch_slices(inputs(batch)[0])) == 2
    torch.testing.assert_close(found, out, rtol=0, atol=1e-12)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_same_bits_every_time() -> None:
    threaded = ThreadedBatch(network())
    _, first = gradients(threaded, 33, False)
    for _ in range(5):
        _, again = gradients(threaded, 33, False)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        out = ThreadedBatch(network())(*inputs(16))
    assert not out.requires_grad


def test_autocast_and_modes_reach_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = network().float()
    x, c_noise, cond = inputs(16)
    monkeypatch.setenv(VARIABLE, "fused=off")  # norms that only parts have
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = ThreadedBatch(plain)(x.float(), c_noise.float(), cond)
        halves = [plain(x.float()[part], c_noise.float()[part], cond.select(part)) for part in batch_slices(x)]
    exact = plain(x.float(), c_noise.float(), cond).detach()
    assert torch.equal(found, torch.cat(halves))
    assert not torch.equal(found, exact)


def test_what_must_not_be_cut_is_not() -> None:
    assert can_split(network())
    assert not can_split(network(dropout=0.1))
    assert not can_split(nn.BatchNorm1d(2))
    assert len(batch_slices(torch.empty(7, 2))) == 1  # fewer than four samples each
    assert len(batch_slices(torch.empty(0, 2))) == 1


def test_a_condition_that_learns_gets_its_gradient() -> None:
    x, c_noise, cond = inputs(16)
    c_noise.requires_grad_(True)
    (gradient,) = torch.autograd.grad(ThreadedBatch(network())(x, c_noise, cond).sum(), c_noise)
    assert float(gradient.abs().sum()) > 0


def test_second_derivatives_are_rejected() -> None:
    x, c_noise, cond = inputs(16)
    x.requires_grad_(True)
    out = ThreadedBatch(network())(x, c_noise, cond)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


def test_the_first_error_is_raised_when_all_have_ended() -> None:
    ended = []

    def fails() -> None:
        raise ValueError("the first")

    def ends() -> None:
        ended.append(True)
        raise ValueError("the second")

    with pytest.raises(ValueError, match="the first"):
        run_parallel([fails, ends])
    assert ended


def test_threads_keep_their_share_and_the_caller_its_cores() -> None:
    assert run_parallel([torch.get_num_threads, torch.get_num_threads]) == [1, 1]
    assert torch.get_num_threads() == 2


def test_a_frozen_network_gives_the_gradient_of_its_input() -> None:
    frozen = network().requires_grad_(False)
    x, c_noise, cond = inputs(16)
    found = []
    for judged in (ThreadedBatch(frozen), frozen):
        own = x.detach().clone().requires_grad_()
        found.append(torch.autograd.grad(judged(own, c_noise, cond).square().sum(), own)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
