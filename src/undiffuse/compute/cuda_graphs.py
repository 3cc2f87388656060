"""CUDA graphs: a forward pass is captured once for each shape of its inputs, then replayed in one launch.

Small networks are bound by kernel launch overhead; a replay launches all kernels at once. Sampling evaluates batches of
one fixed size (``samplers.base.FixedBatchDenoiser``), so one graph serves a whole run. The graph's inputs and output
have fixed memory addresses, so threads that sample from the same network are serialised by a lock.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Warm-up forward passes before the capture, in which libraries select kernels and allocate memory.
_WARM_UP = 3
#: Maximum number of cached graphs; each holds the memory of one forward pass.
_MAX_GRAPHS = 4


class _CapturedGraph(NamedTuple):
    graph: Any
    x: Tensor
    c_noise: Tensor
    conditions: tuple[Any, ...]
    out: Tensor
    free: Any  # a CUDA event: the output of the last replay has been copied

    def replay(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        """A copy of the output for these inputs."""
        self.free.wait()  # the last replay may have been on another thread's stream
        self.x.copy_(x)
        self.c_noise.copy_(c_noise)
        for (_, static), (_, value) in zip(_tensors(self.conditions), _tensors(conditions), strict=True):
            static.copy_(value)
        self.graph.replay()
        out = self.out.clone()
        self.free.record()
        return out


class CUDAGraphed(nn.Module):
    """``network`` replayed from a CUDA graph; called directly on other devices or if the capture fails.

    Args:
        network: ``forward(x, c_noise, *conditions)`` without gradients, each condition with ``map`` and ``tensors()``;
            the memory addresses of its weights must not change.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._graphs: dict[Any, _CapturedGraph] = {}
        self._failed = False
        self._lock = threading.Lock()

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        if not self._failed and _can_be_captured(x):
            key = _key(x, c_noise, conditions)
            with self._lock:
                if key in self._graphs or self._capture(key, x, c_noise, conditions):
                    return self._graphs[key].replay(x, c_noise, *conditions)
        plain: Tensor = self.network(x, c_noise, *conditions)
        return plain

    def _capture(self, key: Any, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> bool:
        """Capture a graph for this shape; returns False, and stops trying, if the network cannot be captured."""
        while len(self._graphs) >= _MAX_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        try:
            self._graphs[key] = _capture(self.network, x, c_noise, conditions)
        except RuntimeError as error:
            self._failed = True
            first = str(error).strip().splitlines()[0]
            warnings.warn(f"no CUDA graph of this network ({first}); it runs without", RuntimeWarning, stacklevel=2)
        return not self._failed


def _can_be_captured(x: Tensor) -> bool:
    return x.device.type == "cuda" and not torch.is_grad_enabled()


def _capture(network: nn.Module, x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> _CapturedGraph:
    x, c_noise, conditions = x.clone(), c_noise.clone(), tuple(value.map(torch.clone) for value in conditions)
    # cached casts of weights would be allocated in the graph's memory pool and reused outside of the graph
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False):
        side_stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP):
                network(x, c_noise, *conditions)
        torch.cuda.current_stream(x.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out: Tensor = network(x, c_noise, *conditions)
    return _CapturedGraph(graph, x, c_noise, conditions, out, torch.cuda.Event())  # type: ignore[no-untyped-call]


def _tensors(conditions: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the conditions, in order."""
    for condition in conditions:
        yield from condition.tensors().items()


def _key(x: Tensor, c_noise: Tensor, conditions: tuple[Any, ...]) -> tuple[Any, ...]:
    inputs = [("x", x), ("c_noise", c_noise), *_tensors(conditions)]
    return tuple((name, value.shape, value.dtype, value.device) for name, value in inputs)
