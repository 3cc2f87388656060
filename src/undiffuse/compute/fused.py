"""Group norm, what is added before it and SiLU after it in one pass, over maps whose channels lie beside each other.

In that layout convolutions in bfloat16 are a fifth to a quarter faster on x86 processors, but torch's group norm is up
to a hundred times slower; with a norm of our own (``native/norm.cpp``) both gain. Its results are differentiable once,
so a network uses it only inside ``differentiated_once``, and every other call computes by torch as ever.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from undiffuse.compute.choice import chosen
from undiffuse.compute.native.build import library

_CALLER = threading.local()
_BF16, _SILU, _OWN = 1, 2, 4  # bits of the kernels' ``kind``


@contextmanager
def differentiated_once() -> Iterator[None]:
    """In here, and in this thread, networks may take operations that have first derivatives in reverse mode only."""
    before = getattr(_CALLER, "allows", False)
    _CALLER.allows = True
    try:
        yield
    finally:
        _CALLER.allows = before


def laid_out(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) with the layout in which a network computes fastest here: channels last, or as they are."""
    if torch.compiler.is_compiling() or not _helps(x):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def takes(x: Tensor) -> bool:
    """Whether ``fused_norm`` is the way to normalise these maps: ``laid_out`` has laid them out for it."""
    if torch.compiler.is_compiling() or not getattr(_CALLER, "allows", False):
        return False
    dense = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32) and x.dim() == 4 and x.numel() > 0
    return dense and x.stride(1) == 1 and library() is not None


def _helps(x: Tensor) -> bool:
    """A row is normalised by one thread, so fewer rows than threads are left to torch."""
    if not getattr(_CALLER, "allows", False) or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return False
    return len(x) >= torch.get_num_threads() and chosen().fused == "auto" and library() is not None


def fused_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    told: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """group_norm(x + told) weight + bias, then SiLU if ``silu``; statistics and all in between in float32.

    Args:
        x: (B, C, H, W), bfloat16 or float32, for which ``takes`` holds.
        groups: of neighbouring channels.
        weight, bias: (C,), or (B, C) for each row its own.
        eps: added to the variance.
        told: (B, C), the same for all pixels.
    Returns:
        As ``x`` in shape, dtype and layout.
    """
    vectors = (weight.float(), bias.float(), None if told is None else told.float())
    out: Tensor = _FusedNorm.apply(x, *vectors, groups, eps, silu)  # type: ignore[no-untyped-call]
    return out


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, groups: int, eps: float, silu: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias, told = weight.contiguous(), bias.contiguous(), None if told is None else told.contiguous()
        out, mean, rstd = torch.empty_like(x), *x.new_empty(2, len(x), groups, dtype=torch.float32)
        kind = _BF16 * (x.dtype == torch.bfloat16) + _SILU * silu + _OWN * (weight.dim() == 2)
        _kernels().norm_forward(
            _at(x), _at(out), _shape(x, groups), _at(weight), _at(bias), _at(told), eps, kind, _at(mean), _at(rstd),
            torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, told, mean, rstd)
        ctx.groups, ctx.kind = groups, kind
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, told, mean, rstd = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        to_x = torch.empty_like(x)
        to_weight, to_bias, to_told = x.new_empty(3, *x.shape[:2], dtype=torch.float32)
        _kernels().norm_backward(
            _at(x), _at(gradient), _at(to_x), _shape(x, ctx.groups), _at(weight), _at(bias), _at(told), ctx.kind,
            _at(mean), _at(rstd), _at(to_weight), _at(to_bias), _at(None if told is None else to_told),
            torch.get_num_threads(),
        )  # fmt: skip
        if weight.dim() == 1:
            to_weight, to_bias = to_weight.sum(0), to_bias.sum(0)
        return to_x, to_weight, to_bias, None if told is None else to_told, None, None, None


def _kernels() -> ctypes.CDLL:
    kernels = library()
    if kernels is None:  # ``takes`` would have said so
        raise RuntimeError("no compiled kernels: ask takes(x) before fused_norm(x, ...)")
    return kernels


def _at(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()


def _shape(x: Tensor, groups: int) -> Any:
    batch, channels, height, width = x.shape
    return (ctypes.c_int64 * 4)(batch, height * width, channels, groups)
