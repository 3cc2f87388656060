"""CUDA graphs: a forward pass is recorded once for each shape of its inputs, then replayed in one launch.

A small network is bound by the calls that start its kernels; a replay starts them all at once. Sampling evaluates
batches of one fixed size (``samplers.base.FixedBatchDenoiser``), so one recording serves a whole run. Its inputs and
its output lie at fixed places in memory, so threads that sample from one network take turns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Forward passes before the recording, in which libraries choose their kernels and take their memory.
_WARM_UP = 3
#: Recordings kept; each holds the memory of one forward pass.
_MOST_RECORDINGS = 4


class _Recording(NamedTuple):
    graph: Any
    x: Tensor
    c_noise: Tensor
    conditions: tuple[Any, ...]
    out: Tensor
    free: Any  # an event of the device: the last replay's output has been copied

    def replay(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        """The output for these inputs, in memory of its own."""
        self.free.wait()  # another thread's stream may be behind this one's
        self.x.copy_(x)
        self.c_noise.copy_(c_noise)
        for (_, held), (_, given) in zip(_tensors(self.conditions), _tensors(conditions), strict=True):
            held.copy_(given)
        self.graph.replay()
        out = self.out.clone()
        self.free.record()
        return out


class CUDAGraphed(nn.Module):
    """``network`` replayed from a recording on CUDA, and called as it is elsewhere or where it cannot be recorded.

    Args:
        network: ``forward(x, c_noise, *conditions)`` without gradients, each condition with ``map`` and ``tensors()``;
            its weights must not move in memory.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._recordings: dict[Any, _Recording] = {}
        self._fails = False
        self._turn = threading.Lock()

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        if not self._fails and _can_be_recorded(x):
            key = _key(x, c_noise, conditions)
            with self._turn:
                if key in self._recordings or self._record(key, x, c_noise, conditions):
                    return self._recordings[key].replay(x, c_noise, *conditions)
        plain: Tensor = self.network(x, c_noise, *conditions)
        return plain

    def _record(self, key: Any, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> bool:
        """Record this shape; False, once and for all, if the network cannot be recorded."""
        while len(self._recordings) >= _MOST_RECORDINGS:
            self._recordings.pop(next(iter(self._recordings)))
        try:
            self._recordings[key] = _recorded(self.network, x, c_noise, conditions)
        except RuntimeError as error:
            self._fails = True
            first = str(error).strip().splitlines()[0]
            warnings.warn(f"no CUDA graph of this network ({first}); it runs without", RuntimeWarning, stacklevel=2)
        return not self._fails


def _can_be_recorded(x: Tensor) -> bool:
    return x.device.type == "cuda" and not torch.is_grad_enabled()


def _recorded(network: nn.Module, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> _Recording:
    x, c_noise, conditions = x.clone(), c_noise.clone(), tuple(one.map(torch.clone) for one in conditions)
    # cached casts of weights would live in the recording's memory and be reused outside of it
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False):
        aside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                network(x, c_noise, *conditions)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out: Tensor = network(x, c_noise, *conditions)
    return _Recording(graph, x, c_noise, conditions, out, torch.cuda.Event())  # type: ignore[no-untyped-call]


def _tensors(conditions: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the conditions, in order."""
    for one in conditions:
        yield from one.tensors().items()


def _key(x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> tuple[Any, ...]:
    held = [("x", x), ("c_noise", c_noise), *_tensors(conditions)]
    return tuple((name, value.shape, value.dtype, value.device) for name, value in held)
