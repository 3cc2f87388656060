"""Operators of the networks (group norm, attention) that a backend can implement with other kernels.

Networks call these functions; kernel, number of threads and memory layout are chosen by a ``Backend``, which the caller
of the network sets for the current thread (``use_backend``). Without a backend everything is plain torch: any device,
differentiable any number of times and in forward mode, and traceable by ``torch.compile`` and ``torch.export``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

#: Up to this many tokens, bfloat16 attention on a CPU materialises its scores; larger score matrices exceed the caches.
MAX_TOKENS_WITH_SCORES = 1024


class Backend(Protocol):
    """An alternative implementation of these operators, equal up to rounding."""

    def feature_map(self, x: Tensor) -> Tensor:
        """Convert a feature map to the memory layout of this backend.

        Args:
            x: (B, C, H, W).
        """
        ...

    def group_norm(
        self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
    ) -> Tensor | None:
        """See the function ``group_norm``; returns None to use torch's implementation.

        Args:
            x: (B, C, H, W).
            groups: number of groups of consecutive channels; divides C.
            weight: (C,), or (B, C) for a scale per sample.
            bias: (C,), or (B, C) like ``weight``.
            eps: added to the variance, above 0.
            shift: (B, C), added to every pixel before the norm; None for 0.
            silu: apply SiLU at the end.
        """
        ...


class _ThreadState(threading.local):
    backend: Backend | None = None


_THREAD_STATE = _ThreadState()


@contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Compute the operators of the current thread with ``backend``; with torch for None.

    Args:
        backend: must support all derivatives that are taken of results computed in this context.
    """
    before, _THREAD_STATE.backend = _THREAD_STATE.backend, backend
    try:
        yield
    finally:
        _THREAD_STATE.backend = before


def _current_backend() -> Backend | None:
    # a traced graph outlives the call and its thread, so it must not depend on the current backend
    return None if torch.compiler.is_compiling() else _THREAD_STATE.backend


def feature_map(x: Tensor) -> Tensor:
    """Mark ``x`` as a feature map for convolutions and norms; a backend may change its memory layout.

    Args:
        x: (B, C, H, W).
    Returns:
        (B, C, H, W), the same values.
    """
    backend = _current_backend()
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
    """Group norm (Wu & He 2018) fused with a shift before it and SiLU after it: y = SiLU(weight n(x + shift) + bias).

    n subtracts the mean of a group and divides by sqrt(variance + eps); both are taken over the group's channels and
    all pixels of one sample.

    Args:
        x: (B, C, H, W).
        groups: number of groups of consecutive channels; divides C.
        weight: (C,), or (B, C) for a scale per sample.
        bias: (C,), or (B, C) like ``weight``.
        eps: added to the variance, above 0.
        shift: (B, C), added to every pixel before the norm; None for 0.
        silu: apply SiLU(z) = z sigmoid(z) at the end; otherwise y is the result of the affine map.
    Returns:
        (B, C, H, W), in the dtype of ``x``.
    Note:
        Statistics are accumulated in float32 or higher precision for every dtype of ``x``.
    Source: Wu & He 2018, "Group Normalization", arXiv:1803.08494, eq. 1 to 3.
    Example:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> y = group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
        >>> bool(y.mean().abs() < 1e-5)
        True
    """
    backend = _current_backend()
    if backend is not None:
        out = backend.group_norm(x, groups, weight, bias, eps, shift, silu)
        if out is not None:
            return out
    h = x if shift is None else x + shift[:, :, None, None]
    h = _normalized(h, groups, weight, bias, eps) if weight.dim() == 1 else _per_sample(h, groups, weight, bias, eps)
    return F.silu(h) if silu else h


def _normalized(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of a map in half precision with weights in float32.

    On a CPU torch supports this directly. On CUDA it does not, and autocast would convert the map to float32; since the
    CUDA kernel accumulates in float32 anyway, the weights are rounded instead, which halves the memory traffic.
    """
    if x.dtype == weight.dtype or x.device.type == "cpu":
        return F.group_norm(x, groups, weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)


def _per_sample(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with a weight and a bias (B, C) per sample, in a single pass over the map.

    The batch is viewed as one sample with B C channels and B times the groups, which has the same groups. On a CPU this
    avoids a broadcast multiplication that costs several times as much as the norm.
    """
    batch, channels, height, width = x.shape
    if batch == 0:  # group norm requires at least one channel
        return torch.addcmul(bias[:, :, None, None].to(x.dtype), x, weight[:, :, None, None].to(x.dtype))
    joined = x.reshape(1, batch * channels, height, width)
    return _normalized(joined, batch * groups, weight.flatten(), bias.flatten(), eps).view(x.shape)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention softmax(Q K^T / sqrt(D)) V for each head (Vaswani et al. 2017).

    Uses torch's fused attention except in bfloat16 on a CPU: there its backward pass runs scalar loops, and three
    batched products are 3 to 10 times faster in training and up to 2 times in the forward pass (49 to 1,024 tokens,
    heads of 32 to 256 channels, one Zen 5 core).

    Args:
        query: (B, heads, L, D).
        key: (B, heads, S, D), in the dtype of ``query``.
        value: (B, heads, S, D), in the dtype of ``query``.
        mask: (B, S) bool, true for the keys to attend to, at least one per sample; None for all.
    Returns:
        (B, heads, L, D).
    Note:
        Materialised scores are rounded to the inputs' dtype after scaling; sums, exponentials and products are float32.
    Source: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762, eq. 1.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] <= MAX_TOKENS_WITH_SCORES:
        return _attention_with_scores(query, key, value, mask)
    return F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None])


def _attention_with_scores(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # (B heads, L or S, D)
    scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=query.shape[-1] ** -0.5)
    if mask is not None:
        excluded = ~mask[:, None, None].expand(-1, query.shape[1], -1, -1).flatten(0, 1)
        scores = scores.masked_fill(excluded, -torch.inf)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(query.shape)
