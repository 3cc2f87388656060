"""Group norm, what is added before it and SiLU after it in one pass, over maps whose channels lie beside each other.

In that layout convolutions in bfloat16 are a fifth to a quarter faster on x86 processors, but torch's group norm is up
to a hundred times slower; with a norm of our own (``native/norm.cpp``) both gain. Its results are differentiable once
and it runs in one thread, as whole shards of a batch do, so networks use it inside ``differentiated_once`` alone.
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

from undiffuse.compute.backend import backend
from undiffuse.compute.native.build import library

_CALLER = threading.local()
_BF16, _SILU, _OWN = 1, 2, 4  # bits of the kernels' ``kind``


@contextmanager
def differentiated_once() -> Iterator[None]:
    """In here, and in this thread, nobody asks for more than first derivatives in reverse mode.

    If the thread computes alone (torch splits no operation) under autocast to bfloat16, the fused norm is at hand.
    """
    before = _at_hand()
    _CALLER.at_hand = _quick_here()
    try:
        yield
    finally:
        _CALLER.at_hand = before


def _at_hand() -> bool:
    return not torch.compiler.is_compiling() and getattr(_CALLER, "at_hand", False)


def _quick_here() -> bool:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return half and torch.get_num_threads() == 1 and is_there()


def is_there() -> bool:
    """Whether the fused norm is chosen and its kernels are compiled; the first to ask waits for the compiler."""
    return backend().fused == "auto" and library() is not None


def laid_out(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) with channels last, as the fused norm wants them, where it is at hand; or as they are."""
    if not _at_hand() or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def takes(x: Tensor) -> bool:
    """Whether the fused norm is at hand and quick for maps of this dtype and layout."""
    if not _at_hand() or x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
        return False
    return x.dim() == 4 and x.numel() > 0 and x.stride(1) == 1


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
    """group_norm(x + told) weight + bias, then SiLU if ``silu``; nothing in between is rounded to the maps' dtype.

    Args:
        x: (B, C, H, W), bfloat16 or float32, on a CPU.
        groups: of neighbouring channels.
        weight, bias: (C,), or (B, C) for each row its own.
        eps: added to the variance.
        told: (B, C), the same for all pixels.
    Returns:
        As ``x`` in shape and dtype, channels last.
    Raises:
        RuntimeError: the kernels are not compiled; ask ``takes(x)`` before.
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
        weight, bias = weight.contiguous(), bias.contiguous()
        told = None if told is None else told.contiguous()
        out = torch.empty_like(x)
        mean, rstd = x.new_empty(2, len(x), groups, dtype=torch.float32)
        kind = _BF16 * (x.dtype == torch.bfloat16) + _SILU * silu + _OWN * (weight.dim() == 2)
        vectors = (_at(weight), _at(bias), _at(told))
        _kernels().norm_forward(_at(x), _at(out), _shape(x, groups), *vectors, eps, kind, _at(mean), _at(rstd))
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
        maps, vectors = (_at(x), _at(gradient), _at(to_x)), (_at(weight), _at(bias), _at(told))
        gradients = (_at(to_weight), _at(to_bias), None if told is None else _at(to_told))
        shape = _shape(x, ctx.groups)
        _kernels().norm_backward(*maps, shape, *vectors, ctx.kind, _at(mean), _at(rstd), *gradients)
        if weight.dim() == 1:
            to_weight, to_bias = to_weight.sum(0), to_bias.sum(0)
        return to_x, to_weight, to_bias, None if told is None else to_told, None, None, None


def _kernels() -> ctypes.CDLL:
    kernels = library()
    if kernels is None:
        raise RuntimeError("no compiled kernels: ask takes(x) before fused_norm(x, ...)")
    return kernels


def _at(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()


def _shape(x: Tensor, groups: int) -> Any:
    batch, channels, height, width = x.shape
    return (ctypes.c_int64 * 4)(batch, height * width, channels, groups)
