"""Fused shift, group norm and SiLU as a custom C++ operator, ``undiffuse::group_norm``.

It operates on channels-last maps (``native/norm.cpp``). In this layout bfloat16 convolutions are 20 to 25% faster on
x86 processors, but torch's group norm is slower than in the contiguous layout (ADR 0036 and 0060).

The operator is registered with torch: ``torch.compile`` and ``torch.export`` keep it as one node of their graphs. It is
differentiable once, in reverse mode, and single-threaded, like the parts of a threaded batch. Networks therefore use it
only inside ``differentiated_once`` (ADR 0060).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from undiffuse.compute.backend import backend
from undiffuse.compute.native.build import library
from undiffuse.core.operators import use_backend

_BF16, _SILU, _PER_SAMPLE = 1, 2, 4  # bits of the kernels' ``kind``

_VECTORS = "Tensor weight, Tensor bias"
_OPERATORS = torch.library.Library("undiffuse", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    f"group_norm(Tensor x, int groups, {_VECTORS}, float eps, Tensor? shift, bool silu) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_OPERATORS.define(  # type: ignore[no-untyped-call]
    f"group_norm_backward(Tensor gradient, Tensor x, int groups, {_VECTORS}, Tensor? shift, bool silu, "
    "Tensor statistics) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def fused_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """``core.operators.group_norm`` with the fused kernels; intermediate values are not rounded to the maps' dtype.

    Args:
        x: (B, C, H, W), bfloat16 or float32, on a CPU.
        groups: number of groups of consecutive channels; divides C.
        weight: (C,), or (B, C) for a scale per sample.
        bias: (C,), or (B, C) like ``weight``.
        eps: added to the variance, above 0.
        shift: (B, C), added to every pixel before the norm; None for 0.
        silu: apply SiLU at the end.
    Returns:
        (B, C, H, W) with channels last, in the dtype of ``x``.
    Raises:
        RuntimeError: the kernels are not compiled (``is_available``).
    """
    vectors = (weight.float(), bias.float(), eps, None if shift is None else shift.float())
    out: Tensor = torch.ops.undiffuse.group_norm.default(x, groups, *vectors, silu)[0]
    return out


def is_available() -> bool:
    """Whether the fused norm is enabled and its kernels are compiled; the first call runs the compiler."""
    return backend().fused == "auto" and library() is not None


class _ChannelsLast:
    """The backend of networks in bfloat16 on one thread of a CPU."""

    def feature_map(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return x
        return x.contiguous(memory_format=torch.channels_last)

    def group_norm(
        self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
    ) -> Tensor | None:
        if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
            return None
        if x.dim() != 4 or x.numel() == 0 or x.stride(1) != 1:
            return None
        return fused_norm(x, groups, weight, bias, eps, shift=shift, silu=silu)


_CHANNELS_LAST = _ChannelsLast()


@contextmanager
def differentiated_once() -> Iterator[None]:
    """Context in which the current thread takes at most first derivatives in reverse mode.

    If the thread is single-threaded (no intra-op parallelism) and under autocast to bfloat16, networks use the fused
    norm.
    """
    with use_backend(_CHANNELS_LAST if _is_beneficial() else None):
        yield


def _is_beneficial() -> bool:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return half and torch.get_num_threads() == 1 and is_available()


def _forward(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """The normalised map, and (2, B, groups): mean and 1 / sqrt(variance + eps) of every group."""
    x, weight, bias, shift = _to_kernel_layout(x, weight, bias, shift)
    out, statistics = _empty(x, groups)
    vectors, (mean, rstd) = (_pointer(weight), _pointer(bias), _pointer(shift)), statistics.unbind()
    kind = _kind(x, weight, silu)
    _kernels().norm_forward(
        _pointer(x), _pointer(out), _shape(x, groups), *vectors, eps, kind, _pointer(mean), _pointer(rstd)
    )
    return out, statistics


def _backward(
    gradient: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    silu: bool,
    statistics: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the map, and (3, B, C) of weight, bias and shift per sample; the last is undefined without shift."""
    x, weight, bias, shift = _to_kernel_layout(x, weight, bias, shift)
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    to_x, to_vectors = _empty_gradients(x)
    to_weight, to_bias, to_shift = to_vectors.unbind()
    maps = (_pointer(x), _pointer(gradient), _pointer(to_x))
    vectors = (_pointer(weight), _pointer(bias), _pointer(shift))
    gradients = (_pointer(to_weight), _pointer(to_bias), None if shift is None else _pointer(to_shift))
    mean, rstd = statistics.unbind()
    kind = _kind(x, weight, silu)
    _kernels().norm_backward(*maps, _shape(x, groups), *vectors, kind, _pointer(mean), _pointer(rstd), *gradients)
    return to_x, to_vectors


def _empty(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(2, x.shape[0], groups, dtype=torch.float32)


def _empty_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(3, *x.shape[:2], dtype=torch.float32)


def _fake_forward(x: Tensor, groups: int, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty(x.contiguous(memory_format=torch.channels_last), groups)


def _fake_backward(gradient: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_gradients(x.contiguous(memory_format=torch.channels_last))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.groups, weight, bias, _, shift, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, shift, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, shift, statistics = ctx.saved_tensors
    backward = torch.ops.undiffuse.group_norm_backward.default
    to_x, to_vectors = backward(gradient, x, ctx.groups, weight, bias, shift, ctx.silu, statistics)
    to_weight, to_bias, to_shift = to_vectors.unbind()
    if weight.dim() == 1:
        to_weight, to_bias = to_weight.sum(0), to_bias.sum(0)
    return to_x, None, to_weight, to_bias, None, None if shift is None else to_shift, None


def _raise_second_derivative(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
    raise RuntimeError("the fused norm can be differentiated once only; compute the network with torch's norm")


_OPERATORS.impl("group_norm", _forward, "CPU")  # type: ignore[no-untyped-call]
_OPERATORS.impl("group_norm_backward", _backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("undiffuse::group_norm", _fake_forward, lib=_OPERATORS)
torch.library.register_fake("undiffuse::group_norm_backward", _fake_backward, lib=_OPERATORS)
torch.library.register_autograd("undiffuse::group_norm", _gradients, setup_context=_save_for_backward, lib=_OPERATORS)
torch.library.register_autograd("undiffuse::group_norm_backward", _raise_second_derivative, lib=_OPERATORS)


def _to_kernel_layout(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x = x.contiguous(memory_format=torch.channels_last)
    return x, weight.contiguous(), bias.contiguous(), None if shift is None else shift.contiguous()


def _kernels() -> ctypes.CDLL:
    kernels = library()
    if kernels is None:
        raise RuntimeError("no compiled kernels: see compute.fused_norm.is_available()")
    return kernels


def _kind(x: Tensor, weight: Tensor, silu: bool) -> int:
    return _BF16 * (x.dtype == torch.bfloat16) + _SILU * silu + _PER_SAMPLE * (weight.dim() == 2)


def _pointer(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()


def _shape(x: Tensor, groups: int) -> Any:
    batch, channels, height, width = x.shape
    return (ctypes.c_int64 * 4)(batch, height * width, channels, groups)
