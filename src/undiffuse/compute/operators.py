"""The fused norm as an operator of torch's own kind, which its compiler takes for what it is and does not look into.

Registered by being imported, which only those who compile do: it brings torch's compiler with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from undiffuse.compute import fused

_FORWARD = (
    "(Tensor x, Tensor weight, Tensor bias, Tensor? told, int groups, float eps, bool silu) -> (Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor gradient, Tensor x, Tensor weight, Tensor bias, Tensor? told, Tensor mean, Tensor rstd, int groups, "
    "bool silu) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("undiffuse::norm", mutates_args=(), schema=_FORWARD)
def _norm(
    x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return fused.norm_forward(*fused.in_order(x, weight, bias, told), groups, eps, silu)


@_norm.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[0], groups, dtype=torch.float32)
    return _maps_like(x), mean, torch.empty_like(mean)


@torch.library.custom_op("undiffuse::norm_backward", mutates_args=(), schema=_BACKWARD)
def _norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = (*fused.in_order(x, weight, bias, told), mean, rstd)
    to_x, to_weight, to_bias, to_told = fused.norm_backward(gradient, kept, groups, silu)
    # an operator has something to give back for each gradient
    return to_x, to_weight, to_bias, mean.new_empty(0) if to_told is None else to_told


@_norm_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_weight = mean.new_empty(weight.shape)
    to_told = mean.new_empty(0) if told is None else mean.new_empty(told.shape)
    return _maps_like(x), to_weight, torch.empty_like(to_weight), to_told


def _maps_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.groups, _, ctx.silu = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    told = ctx.saved_tensors[3]
    *others, to_told = _norm_backward(gradient, *ctx.saved_tensors, ctx.groups, ctx.silu)
    return (*others, None if told is None else to_told, None, None, None)


_norm.register_autograd(_backward, setup_context=_keep)
