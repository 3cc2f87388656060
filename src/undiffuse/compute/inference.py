"""Copies of networks for sampling: weights cast to the products' type once instead of at every call.

A copy computes what the network itself computes as a threaded batch under autocast, bit for bit: the same layers are
cast, and those that step out of autocast (time embedding, last layer) or keep their sums in float32 (norms) are left
alone. It is made at the first call, shared by all who sample from the network, and made anew when a weight has changed
since: torch counts changes in place, but not those of its fused optimizers, so each new ``InferenceNetwork`` compares
the weights' norms too.
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
_MAKING = threading.Lock()


class InferenceNetwork(nn.Module):
    """``network`` by the quickest way to evaluate it without gradients; with gradients, the network itself.

    Args:
        network: ``forward(x (B, ...), c_noise (B,), *conditions)``, each condition with ``select(slice)``.
    Note:
        Between two calls of one such object, weights that are changed behind torch's back (``parameter.data``, a
        fused optimizer of one's own) go unnoticed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._norms_checked = False

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        out: Tensor = self._best(x, c_noise, conditions)(x, c_noise, *conditions)
        return out

    def _best(self, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> nn.Module:
        network = self.network
        if torch.is_grad_enabled() or network.training or len(x) == 0 or network._compiled_call_impl is not None:
            return threaded(network)
        if backend().copies == "off" or not torch.is_autocast_enabled(x.device.type):
            return threaded(network)
        with _MAKING:
            held = _current(network, x, c_noise, conditions, compare=not self._norms_checked)
        self._norms_checked = True
        return held


def _current(
    network: nn.Module, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...], *, compare: bool
) -> nn.Module:
    """The copy of the network as it is now, by torch's count of changes and, if ``compare``, by the weights' norms."""
    dtype = torch.get_autocast_dtype(x.device.type)
    state, held = _state_of(network, dtype), _COPIES.get(network)
    if held is not None and held.state == state and not (compare and held.norms != _norms_of(network)):
        return held.network
    cast = _cast_copy(network, dtype, x[:1], c_noise[:1], [one.select(slice(0, 1)) for one in conditions])
    _COPIES[network] = _Copy(_prepared(cast), state, _norms_of(network))
    return _COPIES[network].network


def _state_of(network: nn.Module, dtype: torch.dtype) -> tuple[Any, ...]:
    """Equal as long as no weight or buffer has been changed in place or replaced."""
    held = chain(network.parameters(), network.buffers())
    return (dtype, *((value.data_ptr(), 0 if value.is_inference() else value._version) for value in held))


def _norms_of(network: nn.Module) -> tuple[float, ...]:
    held = [value.detach() for value in chain(network.parameters(), network.buffers()) if value.is_floating_point()]
    return tuple(torch.stack(list(torch._foreach_norm(held))).tolist())


def _prepared(network: nn.Module) -> nn.Module:
    device = next(network.parameters()).device.type
    return CUDAGraphed(network) if device == "cuda" and backend().graphs == "auto" else threaded(network)


def _cast_copy(
    network: nn.Module, dtype: torch.dtype, x: Tensor, c_noise: Tensor, conditions: Sequence[Any]
) -> nn.Module:
    """A copy whose layers hold their weights in ``dtype`` where a call with one sample finds them under autocast."""
    twin = copy.deepcopy(network).requires_grad_(False).eval()
    device, cast, kept = x.device.type, set[nn.Module](), set[nn.Module]()

    def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        (cast if torch.is_autocast_enabled(device) else kept).add(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in twin.modules() if isinstance(layer, _CAST)]
    twin(x, c_noise, *conditions)
    for hook in hooks:
        hook.remove()
    for layer in cast - kept:
        layer.to(dtype)
    return twin
