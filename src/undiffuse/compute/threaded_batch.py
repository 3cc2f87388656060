"""Data parallelism over CPU threads: the parts of a batch are computed in parallel, one core each.

Splitting every operation over the cores, torch's default, synchronises threads after each of a small network's many
short operations; splitting the batch needs almost no synchronisation. The forward and backward pass of each part run in
one thread, whose operations use an equal number of the cores, and the gradients of the parts are added in a fixed
order, so results are deterministic on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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

    First derivatives in reverse mode are supported; second derivatives and forward mode are not. A network that draws
    random numbers (dropout) or changes its state in a forward pass must not be threaded; see ``can_split``.

    Args:
        network: ``forward(x (B, ...), c_noise (B,), *conditions)``, each condition with ``select(slice)`` and
            ``tensors()``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        parts = batch_slices(x)
        if len(parts) < 2 or _requires_other_gradients(c_noise, conditions):
            with differentiated_once():
                whole: Tensor = self.network(x, c_noise, *conditions)
            return whole
        if not torch.is_grad_enabled():
            return torch.cat(run_parallel([self._task(x, c_noise, conditions, part, False) for part in parts]))
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        tasks = [self._task(x, c_noise, conditions, part, True) for part in parts]
        inputs = [x.detach()[part] for part in parts]
        out: Tensor = _Parts.apply(tasks, inputs, x, *parameters)  # type: ignore[no-untyped-call]
        return out

    def _task(
        self, x: Tensor, c_noise: Tensor, conditions: Sequence[Any], part: slice, grad: bool
    ) -> Callable[..., Tensor]:
        autocast = _current_autocast(x.device.type)

        def run(x_part: Tensor | None = None) -> Tensor:
            with torch.set_grad_enabled(grad), autocast(), differentiated_once():
                x_part = x[part] if x_part is None else x_part
                out: Tensor = self.network(x_part, c_noise[part], *(value.select(part) for value in conditions))
                return out

        return run


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


def _requires_other_gradients(c_noise: Tensor, conditions: Sequence[Any]) -> bool:
    """Whether an input other than x requires a gradient, which ``_Parts`` does not compute."""
    other_inputs = [c_noise, *(value for condition in conditions for value in condition.tensors().values())]
    return torch.is_grad_enabled() and any(value.requires_grad for value in other_inputs)


def _current_autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The caller's autocast context, to be entered in another thread."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


class _Parts(torch.autograd.Function):
    """Runs the tasks in parallel with separate graphs; backward runs in parallel too and adds parameter gradients."""

    @staticmethod
    def forward(ctx: Any, tasks: list[Any], inputs: list[Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        for part in inputs:
            part.requires_grad_(x.requires_grad)
        outs: list[Tensor] = run_parallel([_bound(task, part) for task, part in zip(tasks, inputs, strict=True)])
        ctx.outs, ctx.inputs, ctx.parameters, ctx.to_input = outs, inputs, parameters, x.requires_grad
        return torch.cat([out.detach() for out in outs])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        # with create_graph=True the result would look like a constant; a second backward has no saved outputs
        if torch.is_grad_enabled() or ctx.outs is None:
            raise RuntimeError("a threaded batch can be differentiated once only; evaluate the network itself")
        pieces = torch.split(gradient, [len(out) for out in ctx.outs])
        targets = [(*ctx.parameters, *([part] if ctx.to_input else [])) for part in ctx.inputs]
        tasks = [_backward(out, inputs, piece) for out, inputs, piece in zip(ctx.outs, targets, pieces, strict=True)]
        parts = run_parallel(tasks)
        ctx.outs = ctx.inputs = None
        count = len(ctx.parameters)
        to_x = (
            torch.cat([value for part in parts for value in part[count:] if value is not None])
            if ctx.to_input
            else None
        )
        return None, None, to_x, *_sums([part[:count] for part in parts])


def _bound(task: Callable[[Tensor], Tensor], part: Tensor) -> Callable[[], Tensor]:
    return lambda: task(part)


def _backward(out: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> Callable[[], tuple[Tensor | None, ...]]:
    return lambda: torch.autograd.grad(out, inputs, gradient, allow_unused=True)


def _sums(parts: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
    """Gradients of the parameters, summed over the parts in order; None for unused parameters."""
    totals, *other_parts = [[value for value in part if value is not None] for part in parts]
    for gradients in other_parts if totals else ():  # a frozen network has no parameter gradients
        torch._foreach_add_(totals, gradients)
    remaining = iter(totals)
    return [None if value is None else next(remaining) for value in parts[0]]
