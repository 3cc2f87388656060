"""Group norm, what is added before it and SiLU after it in one pass, over maps whose channels lie beside each other.

In that layout convolutions in bfloat16 are a fifth to a quarter faster on x86 processors, but torch's group norm is up
to a hundred times slower; with a norm of our own (``native/norm.cpp``) both gain. Its results are differentiable once
and it runs in one thread, as whole shards of a batch do, so networks use it inside ``differentiated_once`` alone.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
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
    """In here, and in this thread, nobody asks for more than first derivatives in reverse mode.

    If the thread computes alone (torch splits no operation) under autocast to bfloat16, the fused norm is at hand.
    """
    before = at_hand()
    _CALLER.at_hand = torch.get_num_threads() == 1 and wanted_here()
    try:
        yield
    finally:
        _CALLER.at_hand = before


def at_hand() -> bool:
    """Whether the caller is inside ``differentiated_once`` and the fused norm there is.

    torch's compiler asks while it traces and takes the answer for good: see ``compute.compiled``.
    """
    return getattr(_CALLER, "at_hand", False)


def wanted_here() -> bool:
    """Whether the caller computes in bfloat16 on a CPU and the fused norm is there for it."""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return half and is_there()


def is_there() -> bool:
    """Whether the fused norm is chosen and its kernels are compiled; the first to ask waits for the compiler."""
    return chosen().fused == "auto" and library() is not None


def laid_out(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) with channels last, as the fused norm wants them, where it is at hand; or as they are."""
    if not at_hand() or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def takes(x: Tensor) -> bool:
    """Whether the fused norm is at hand and quick for maps of this dtype and layout."""
    if not at_hand() or x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
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
    if torch.compiler.is_compiling():
        traced: Tensor = torch.ops.undiffuse.norm(x, *vectors, groups, eps, silu)[0]  # of compute.operators
        return traced
    out: Tensor = _FusedNorm.apply(x, *vectors, groups, eps, silu)  # type: ignore[no-untyped-call]
    return out


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, groups: int, eps: float, silu: bool
    ) -> Tensor:
        x, weight, bias, told = in_order(x, weight, bias, told)
        out, mean, rstd = norm_forward(x, weight, bias, told, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, told, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*norm_backward(gradient, ctx.saved_tensors, ctx.groups, ctx.silu), None, None, None)


def in_order(
    x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As the kernels read them: maps channels last, vectors without gaps."""
    told = None if told is None else told.contiguous()
    return x.contiguous(memory_format=torch.channels_last), weight.contiguous(), bias.contiguous(), told


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``fused_norm`` says, with mean and 1 / standard deviation (B, groups), of tensors ``in_order``."""
    out = torch.empty_like(x)
    mean = x.new_empty(len(x), groups, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    vectors = (_at(weight), _at(bias), _at(told))
    kind = _kind(x, weight, silu)
    _kernels().norm_forward(_at(x), _at(out), _shape(x, groups), *vectors, eps, kind, _at(mean), _at(rstd))
    return out, mean, rstd


def norm_backward(
    gradient: Tensor, kept: Sequence[Any], groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and told.

    Args:
        kept: those four, in order, and the mean and 1 / standard deviation that ``norm_forward`` gave.
    """
    x, weight, bias, told, mean, rstd = kept
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    to_x = torch.empty_like(x)
    to_weight, to_bias, to_told = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(3))
    maps, vectors = (_at(x), _at(gradient), _at(to_x)), (_at(weight), _at(bias), _at(told))
    gradients = (_at(to_weight), _at(to_bias), None if told is None else _at(to_told))
    kind = _kind(x, weight, silu)
    _kernels().norm_backward(*maps, _shape(x, groups), *vectors, kind, _at(mean), _at(rstd), *gradients)
    if weight.dim() == 1:
        to_weight, to_bias = to_weight.sum(0), to_bias.sum(0)
    return to_x, to_weight, to_bias, None if told is None else to_told


def _kind(x: Tensor, weight: Tensor, silu: bool) -> int:
    return _BF16 * (x.dtype == torch.bfloat16) + _SILU * silu + _OWN * (weight.dim() == 2)


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
