"""Operators that networks call: their formulas, any derivative, and a backend that holds for its own thread alone."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from undiffuse.core.operators import attention, feature_map, group_norm, use_backend


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("silu", [False, True], ids=["norm", "norm-silu"])
@pytest.mark.parametrize("shifted", [False, True], ids=["alone", "shifted"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per-sample"])
def test_a_group_norm_is_its_formula(per_sample: bool, shifted: bool, silu: bool) -> None:
    x, shift = 3 * drawn(4, 12, 5, 3) + 1, drawn(4, 12) if shifted else None
    weight, bias = (drawn(4, 12), drawn(4, 12) + 1) if per_sample else (drawn(12), drawn(12) + 1)
    h = (x if shift is None else x + shift[:, :, None, None]).reshape(4, 3, -1)
    n = (h - h.mean(2, keepdim=True)) / (h.var(2, correction=0, keepdim=True) + 1e-3).sqrt()
    z = n.reshape(x.shape) * weight.expand(4, -1)[:, :, None, None] + bias.expand(4, -1)[:, :, None, None]
    found = group_norm(x, 3, weight, bias, 1e-3, shift=shift, silu=silu)
    torch.testing.assert_close(found, z * z.sigmoid() if silu else z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per-sample"])
def test_an_empty_batch_stays_one(per_sample: bool) -> None:
    x, weight = torch.zeros(0, 8, 3, 3), torch.ones(0, 8) if per_sample else torch.ones(8)
    assert group_norm(x, 2, weight, weight, 1e-5, shift=torch.zeros(0, 8), silu=True).shape == x.shape


def test_without_a_backend_it_is_differentiable_twice_and_forwards() -> None:
    x, weight, shift = (value.requires_grad_() for value in (drawn(2, 4, 2, 3), drawn(2, 4), drawn(2, 4)))

    def norm(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        return group_norm(x, 2, weight, weight, 1e-2, shift=shift, silu=True)

    assert gradgradcheck(norm, (x, weight, shift))
    inputs = tuple(value.detach() for value in (x, weight, shift))
    _, slope = torch.func.jvp(norm, inputs, tuple(torch.ones_like(value) for value in inputs))
    step = 1e-6
    ends = [norm(*(value + sign * step for value in inputs)) for sign in (1, -1)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_attention_is_its_formula() -> None:
    q, k, v = (drawn(2, 3, 7, size) for size in (4, 4, 4))
    k, v = k.flip(2), v.roll(1, 2)
    expected = torch.softmax(q @ k.mT / 2, dim=-1) @ v
    torch.testing.assert_close(attention(q, k, v), expected, rtol=1e-12, atol=1e-12)


class Doubles:
    """A backend that is easy to tell from torch, and leaves one kind of norm to it."""

    def feature_map(self, x: Tensor) -> Tensor:
        return 2 * x

    def group_norm(
        self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
    ) -> Tensor | None:
        return 2 * x if silu else None


def test_a_backend_computes_what_it_takes_in_its_thread_until_it_is_left() -> None:
    x, ones = torch.randn(2, 4, 3, 3), torch.ones(4)
    plain, elsewhere = group_norm(x, 2, ones, ones, 1e-5), list[Tensor]()
    with pytest.raises(ValueError, match="left by an error"), use_backend(Doubles()):
        assert torch.equal(feature_map(x), 2 * x)
        assert torch.equal(group_norm(x, 2, ones, ones, 1e-5, silu=True), 2 * x)
        assert torch.equal(group_norm(x, 2, ones, ones, 1e-5), plain)
        other = threading.Thread(target=lambda: elsewhere.append(feature_map(x)))
        other.start()
        other.join()
        with use_backend(None):
            assert feature_map(x) is x
        assert torch.equal(feature_map(x), 2 * x)
        raise ValueError("left by an error")
    assert elsewhere[0] is x and feature_map(x) is x
