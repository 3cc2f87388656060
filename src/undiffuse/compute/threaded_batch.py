"""Data parallelism over CPU threads: the parts of a batch are computed in parallel, one core each.

Splitting every operation over the cores, torch's default, synchronises threads after each of a small network's many
short operations; splitting the batch needs almost no synchronisation. The forward and backward pass of each part run in
one thread, whose operations use an equal number of the cores, and the gradients of the parts are added in a fixed
order, so results are deterministic on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from undiffuse.compute import wait_policy
from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.fused_norm import differentiated_once, is_available

T = TypeVar("T")

#: Maximum number of parts; with more, each part has too few samples.
_MAX_PARTS = 8
#: Minimum samples per part; with fewer, the call overhead exceeds the gain.
_MIN_SAMPLES = 4


def num_parts() -> int:
    """Number of parts of a batch on this machine: one per torch thread, up to eight."""
    return min(torch.get_num_threads(), _MAX_PARTS)


def has_fused_norm() -> bool:
    """Whether threaded batches of networks in bfloat16 use the norms of ``compute.fused_norm`` on this CPU."""
    single_threaded = torch.get_num_threads() // num_parts() == 1
    return single_threaded and compute_dtype("bf16", "cpu") is not None and is_available()


def uses_fused_norm(network: nn.Module, precision: str) -> bool:
    """Whether a threaded batch of ``network`` uses the fused norm; it is then faster than when compiled (ADR 0037).

    Args:
        network: the network.
        precision: precision of the model, ``fp32`` or ``bf16``.
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    normed = any(isinstance(part, nn.GroupNorm) for part in network.modules())
    return precision == "bf16" and on_cpu and normed and can_split(network) and has_fused_norm()


@cache
def _pool(workers: int, threads: int, process: int) -> ThreadPoolExecutor:
    """Worker threads whose operations use ``threads`` cores each; one pool per process, so forks get a new one."""
    return ThreadPoolExecutor(workers, "part", initializer=_set_num_threads, initargs=(threads,))


def _set_num_threads(threads: int) -> None:
    """Set the number of cores that the operations of this thread use."""
    torch.get_num_threads()  # initialises the thread with the default, which would otherwise override the new value
    torch.set_num_threads(threads)


def run_parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run tasks in parallel, each on an equal number of the cores, and return their results.

    If tasks fail, the error of the first failed task in order is raised after all tasks have ended.
    """
    cores = torch.get_num_threads()
    wait_policy.update()
    if len(tasks) < 2 or cores < 2:
        return [task() for task in tasks]
    workers = min(len(tasks), cores)
    futures = [_pool(workers, cores // workers, os.getpid()).submit(task) for task in tasks]
    for future in futures:
        future.exception()
    torch.set_num_threads(cores)  # a new worker's value became the default of future threads
    return [future.result() for future in futures]


class ThreadedBatch(nn.Module):
    """``network`` evaluated on parts of the batch in parallel threads: the same function, faster on a multi-core CPU.

    First derivatives in reverse mode are supported, with respect to weights, x and conditions; second derivatives and
    forward mode are not. A network that draws random numbers (dropout) or changes its state in a forward pass must not
    be threaded; see ``can_split``.

    Args:
        network: ``forward(x (B, ...), c_noise (B,), *conditions)``, each condition with ``select(slice)``,
            ``tensors()`` and ``map_named()``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        parts = batch_slices(x)
        if len(parts) < 2 or (torch.is_grad_enabled() and c_noise.requires_grad):
            with differentiated_once():
                whole: Tensor = self.network(x, c_noise, *conditions)
            return whole
        if not torch.is_grad_enabled():
            return torch.cat(run_parallel([self._task(x, c_noise, conditions, part, None) for part in parts]))
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        differentiable = _differentiable(x, conditions)
        pieces = [[value.detach()[part].requires_grad_() for value in differentiable] for part in parts]
        tasks = [
            self._task(x, c_noise, conditions, part, dict(zip(map(id, differentiable), values, strict=True)))
            for part, values in zip(parts, pieces, strict=True)
        ]
        out: Tensor = _Parts.apply(tasks, pieces, parameters, *differentiable, *parameters)  # type: ignore[no-untyped-call]
        return out

    def _task(
        self,
        x: Tensor,
        c_noise: Tensor,
        conditions: Sequence[Any],
        part: slice,
        leaves: Mapping[int, Tensor] | None,
    ) -> Callable[[], Tensor]:
        """Evaluation of a part.

        Args:
            x: (B, ...).
            c_noise: (B,).
            conditions: conditions of the batch.
            part: rows of the part.
            leaves: for each differentiable tensor of the inputs, by its id, the part's leaf of the graph; None to
                evaluate without gradients.
        """
        autocast = _current_autocast(x.device.type)
        detached = leaves or {}

        def leaf_or_part(value: Tensor) -> Tensor:
            return detached[id(value)] if id(value) in detached else value.detach()[part]

        def run() -> Tensor:
            with torch.set_grad_enabled(leaves is not None), autocast(), differentiated_once():
                selected = [value.map(leaf_or_part) for value in conditions]
                out: Tensor = self.network(leaf_or_part(x), c_noise[part], *selected)
                return out

        return run


def _differentiable(x: Tensor, conditions: Sequence[Any]) -> list[Tensor]:
    """The tensors of the inputs that require a gradient."""
    tensors = [x, *(value for condition in conditions for value in condition.tensors().values())]
    return [value for value in tensors if value.requires_grad]


def batch_slices(x: Tensor) -> list[slice]:
    """The parts of a batch as slices; a single slice if splitting is not beneficial.

    Args:
        x: (B, ...).
    """
    count = min(num_parts(), len(x) // _MIN_SAMPLES) if x.device.type == "cpu" else 1
    if count < 2:
        return [slice(0, len(x))]
    rows = -(-len(x) // count)
    return [slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]


def can_split(network: nn.Module) -> bool:
    """Whether ``network`` is not compiled and its forward pass neither draws random numbers nor changes its state."""
    if network._compiled_call_impl is not None:
        return False
    return not any(
        (isinstance(part, nn.Dropout) and part.p > 0) or isinstance(part, nn.modules.batchnorm._BatchNorm)
        for part in network.modules()
    )


def threaded(network: nn.Module) -> nn.Module:
    """``network`` as a ``ThreadedBatch`` if it can be split, otherwise ``network`` itself."""
    return ThreadedBatch(network) if can_split(network) else network


def _current_autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The caller's autocast context, to be entered in another thread."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


class _Parts(torch.autograd.Function):
    """Runs the tasks in parallel with separate graphs; backward runs in parallel too.

    Gradients of parameters are added, those of inputs concatenated.
    """

    @staticmethod
    def forward(
        ctx: Any, tasks: list[Any], pieces: list[list[Tensor]], parameters: list[Tensor], *inputs: Tensor
    ) -> Tensor:
        outs: list[Tensor] = run_parallel(tasks)
        ctx.outs, ctx.pieces, ctx.parameters = outs, pieces, parameters
        return torch.cat([out.detach() for out in outs])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        # with create_graph=True the result would look like a constant; a second backward has no saved outputs
        if torch.is_grad_enabled() or ctx.outs is None:
            raise RuntimeError("a threaded batch can be differentiated once only; evaluate the network itself")
        gradients = torch.split(gradient, [len(out) for out in ctx.outs])
        targets = [(*ctx.parameters, *leaves) for leaves in ctx.pieces]
        tasks = [_backward(out, wanted, piece) for out, wanted, piece in zip(ctx.outs, targets, gradients, strict=True)]
        parts = run_parallel(tasks)
        count, leaves = len(ctx.parameters), ctx.pieces
        to_inputs = [_joined([part[count + index] for part in parts], leaves, index) for index in range(len(leaves[0]))]
        ctx.outs = ctx.pieces = None
        return None, None, None, *to_inputs, *_sums([part[:count] for part in parts])


def _joined(gradients: Sequence[Tensor | None], leaves: Sequence[Sequence[Tensor]], index: int) -> Tensor | None:
    """Gradient of one input from those of its parts; None if the network does not use the input."""
    if all(gradient is None for gradient in gradients):
        return None
    pairs = zip(gradients, leaves, strict=True)
    return torch.cat([torch.zeros_like(leaf[index]) if value is None else value for value, leaf in pairs])


def _backward(out: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> Callable[[], tuple[Tensor | None, ...]]:
    return lambda: torch.autograd.grad(out, inputs, gradient, allow_unused=True)


def _sums(parts: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
    """Gradients of the parameters, summed over the parts in order; None for unused parameters."""
    totals, *other_parts = [[value for value in part if value is not None] for part in parts]
    for gradients in other_parts if totals else ():  # a frozen network has no parameter gradients
        torch._foreach_add_(totals, gradients)
    remaining = iter(totals)
    return [None if value is None else next(remaining) for value in parts[0]]
