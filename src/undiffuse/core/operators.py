"""Operators that networks call by what they compute, and the one place where a backend computes them its own way.

A network states that a feature map is normalised or that tokens attend to each other. By which kernel, on how many
threads and in which memory layout is left to a ``Backend``, which whoever evaluates the network puts in place for the
thread it runs on (``computed_by``). Without one, everything here is plain torch: on any device, differentiable any
number of times and in forward mode, and traced as such by ``torch.compile`` and ``torch.export``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

#: Tokens up to which attention in bfloat16 on a CPU holds its scores: a longer table no longer fits into the caches.
MOST_TOKENS_WITH_SCORES = 1024


class Backend(Protocol):
    """Another way to compute these operators, equal up to rounding."""

    def feature_map(self, x: Tensor) -> Tensor:
        """A feature map in the memory layout that this backend computes in.

        Args:
            x: (B, C, H, W).
        """
        ...

    def group_norm(
        self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
    ) -> Tensor | None:
        """See the function ``group_norm``; None leaves this call to torch.

        Args:
            x: (B, C, H, W).
            groups: of neighbouring channels; divides C.
            weight: (C,), or (B, C) for a scale per sample.
            bias: (C,), or (B, C) like ``weight``.
            eps: added to the variance, above 0.
            shift: (B, C), added to every pixel before the norm; None for 0.
            silu: apply SiLU at the end.
        """
        ...


class _Thread(threading.local):
    backend: Backend | None = None


_THREAD = _Thread()


@contextmanager
def computed_by(backend: Backend | None) -> Iterator[None]:
    """Inside, this thread's operators are computed by ``backend``; by torch for None.

    Args:
        backend: must allow whatever derivatives are taken of what is computed inside.
    """
    before, _THREAD.backend = _THREAD.backend, backend
    try:
        yield
    finally:
        _THREAD.backend = before


def _in_place() -> Backend | None:
    # a traced graph outlives the call and its thread, so it never holds a backend's choice
    return None if torch.compiler.is_compiling() else _THREAD.backend


def feature_map(x: Tensor) -> Tensor:
    """``x``, declared to be a feature map that convolutions and norms will read: a backend may lay it out anew.

    Args:
        x: (B, C, H, W).
    Returns:
        (B, C, H, W), the same values.
    """
    backend = _in_place()
    return x if backend is None else backend.feature_map(x)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """Group norm with what surrounds it in a network (Wu & He 2018): y = SiLU(weight n(x + shift) + bias).

    n subtracts the mean of a group and divides by sqrt(variance + eps); both are over the group's channels and all
    pixels of one sample.

    Args:
        x: (B, C, H, W).
        groups: of neighbouring channels; divides C.
        weight: (C,), or (B, C) for a scale per sample.
        bias: (C,), or (B, C) like ``weight``.
        eps: added to the variance, above 0.
        shift: (B, C), added to every pixel before the norm; None for 0.
        silu: apply SiLU(z) = z sigmoid(z) at the end; without it y is the affine map itself.
    Returns:
        (B, C, H, W), in the dtype of ``x``.
    Note:
        Statistics are summed in float32 or better, whatever the dtype of ``x``.
    Source: Wu & He 2018, "Group Normalization", arXiv:1803.08494, eq. 1 to 3.
    Example:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> y = group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
        >>> bool(y.mean().abs() < 1e-5)
        True
    """
    backend = _in_place()
    if backend is not None:
        out = backend.group_norm(x, groups, weight, bias, eps, shift, silu)
        if out is not None:
            return out
    h = x if shift is None else x + shift[:, :, None, None]
    h = _normalized(h, groups, weight, bias, eps) if weight.dim() == 1 else _per_sample(h, groups, weight, bias, eps)
    return F.silu(h) if silu else h


def _normalized(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """On a CPU torch takes maps in half precision with weights in float32.

    On CUDA it does not, and under autocast would make the map float32 and go on so; yet its kernel sums in float32 by
    itself, so the weights are rounded instead, and the map is read and written once at half the size.
    """
    if x.dtype == weight.dtype or x.device.type == "cpu":
        return F.group_norm(x, groups, weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)


def _per_sample(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A weight and a bias (B, C) for each sample, in a single pass over the map.

    A group norm of one sample whose channels are those of all samples is the group norm of each. On a CPU this saves
    what a broadcast product costs, which is several times the norm itself.
    """
    batch, channels, height, width = x.shape
    if batch == 0:  # no group norm has no channels at all
        return torch.addcmul(bias[:, :, None, None].to(x.dtype), x, weight[:, :, None, None].to(x.dtype))
    joined = x.reshape(1, batch * channels, height, width)
    return _normalized(joined, batch * groups, weight.flatten(), bias.flatten(), eps).view(x.shape)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention softmax(Q K^T / sqrt(D)) V for each head (Vaswani et al. 2017).

    torch's fused attention is taken on every device but one: in bfloat16 on a CPU its backward pass works in scalar
    loops, and three batched products beat it by 3 to 10 times in training and up to 2 times forwards (49 to 1,024
    tokens, heads of 32 to 256 channels, one Zen 5 core).

    Args:
        query: (B, heads, L, D).
        key: (B, heads, L, D), in the dtype of ``query``.
        value: (B, heads, L, D), in the dtype of ``query``.
    Returns:
        (B, heads, L, D).
    Note:
        Where scores are held, they are rounded to the inputs' dtype after scaling; sums, exponentials and products are
        float32.
    Source: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762, eq. 1.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] <= MOST_TOKENS_WITH_SCORES:
        return _attention_with_scores(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def _attention_with_scores(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # (B heads, L, D)
    scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(value.shape)
