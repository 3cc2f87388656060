"""Copies of networks for sampling, with weights cast to the autocast dtype once instead of at every call.

A copy is bitwise identical to the network as a threaded batch under autocast: the same layers are cast, and layers that
disable autocast (time embedding, last layer) or accumulate in float32 (norms) are not cast. The copy is created at the
first call, shared by all ``InferenceNetwork`` of a network, and recreated if a weight has changed: torch counts
in-place changes, but not those of its fused optimizers, so each new ``InferenceNetwork`` also compares the weights'
norms.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from undiffuse.compute.backend import backend
from undiffuse.compute.cuda_graphs import CUDAGraphed
from undiffuse.compute.threaded_batch import threaded

#: Layers whose weights autocast casts.
_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


class _Copy(NamedTuple):
    network: nn.Module
    state: tuple[Any, ...]
    norms: tuple[float, ...]


_COPIES: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()
_LOCK = threading.Lock()


class InferenceNetwork(nn.Module):
    """``network`` evaluated in the fastest way without gradients; with gradients, the original network.

    Args:
        network: ``forward(x (B, ...), c_noise (B,), *conditions)``, each condition with ``select(slice)``.
    Note:
        Weight changes between two calls that torch does not track (``parameter.data``, a custom fused optimizer) are
        not detected.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._norms_checked = False

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        out: Tensor = self._fastest(x, c_noise, conditions)(x, c_noise, *conditions)
        return out

    def _fastest(self, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> nn.Module:
        network = self.network
        if torch.is_grad_enabled() or network.training or len(x) == 0 or network._compiled_call_impl is not None:
            return threaded(network)
        if backend().copies == "off" or not torch.is_autocast_enabled(x.device.type):
            return threaded(network)
        with _LOCK:
            copied = _current_copy(network, x, c_noise, conditions, compare=not self._norms_checked)
        self._norms_checked = True
        return copied


def _current_copy(
    network: nn.Module, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...], *, compare: bool
) -> nn.Module:
    """An up-to-date copy of the network; changes are detected by tensor versions and, if ``compare``, by norms."""
    dtype = torch.get_autocast_dtype(x.device.type)
    state, cached = _state_of(network, dtype), _COPIES.get(network)
    if cached is not None and cached.state == state and not (compare and cached.norms != _norms_of(network)):
        return cached.network
    cast = _cast_copy(network, dtype, x[:1], c_noise[:1], [value.select(slice(0, 1)) for value in conditions])
    _COPIES[network] = _Copy(_prepared(cast), state, _norms_of(network))
    return _COPIES[network].network


def _state_of(network: nn.Module, dtype: torch.dtype) -> tuple[Any, ...]:
    """A key that changes if a weight or buffer is changed in place or replaced."""
    tensors = chain(network.parameters(), network.buffers())
    return (dtype, *((value.data_ptr(), 0 if value.is_inference() else value._version) for value in tensors))


def _norms_of(network: nn.Module) -> tuple[float, ...]:
    tensors = [value.detach() for value in chain(network.parameters(), network.buffers()) if value.is_floating_point()]
    return tuple(torch.stack(list(torch._foreach_norm(tensors))).tolist())


def _prepared(network: nn.Module) -> nn.Module:
    device = next(network.parameters()).device.type
    return CUDAGraphed(network) if device == "cuda" and backend().graphs == "auto" else threaded(network)


def _cast_copy(
    network: nn.Module, dtype: torch.dtype, x: Tensor, c_noise: Tensor, conditions: Sequence[Any]
) -> nn.Module:
    """A copy with weights in ``dtype`` for all layers that a call with one sample runs under autocast."""
    copied = copy.deepcopy(network).requires_grad_(False).eval()
    device, with_autocast, without_autocast = x.device.type, set[nn.Module](), set[nn.Module]()

    def record(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        (with_autocast if torch.is_autocast_enabled(device) else without_autocast).add(layer)

    hooks = [layer.register_forward_pre_hook(record) for layer in copied.modules() if isinstance(layer, _CAST)]
    copied(x, c_noise, *conditions)
    for hook in hooks:
        hook.remove()
    for layer in with_autocast - without_autocast:
        layer.to(dtype)
    return copied
