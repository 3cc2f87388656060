"""A batch split over threads: its parts are computed at the same time, one core each.

Splitting every operation over the cores, as torch does by itself, leaves them waiting for each other after each of a
small network's many short operations; whole parts of a batch hardly ever wait. Forward and backward of each part run in
a thread of their own, whose operations have its share of the cores, and the parts' gradients are added in order: the
same bits every time on one machine.
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

#: More parts than this leave each with too few samples.
_MOST_PARTS = 8
#: A part of fewer samples costs more in calls than it saves.
_FEWEST_SAMPLES = 4


def num_parts() -> int:
    """Parts of a batch on this machine: one a thread that torch may use, up to eight."""
    return min(torch.get_num_threads(), _MOST_PARTS)


def has_fused_norm() -> bool:
    """Whether threaded batches of networks in bfloat16 have the norms of ``compute.fused_norm`` on this CPU."""
    alone = torch.get_num_threads() // num_parts() == 1
    return alone and compute_dtype("bf16", "cpu") is not None and is_available()


def uses_fused_norm(network: nn.Module, precision: str) -> bool:
    """Whether a threaded batch of ``network`` has the fused norm on its device: faster than compiling it (ADR 0037).

    Args:
        network: to be evaluated.
        precision: of the model, ``fp32`` or ``bf16``.
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    normed = any(isinstance(part, nn.GroupNorm) for part in network.modules())
    return precision == "bf16" and on_cpu and normed and can_split(network) and has_fused_norm()


@cache
def _pool(workers: int, threads: int, process: int) -> ThreadPoolExecutor:
    """Threads whose operations use ``threads`` cores each; a forked process gets its own."""
    return ThreadPoolExecutor(workers, "part", initializer=_use, initargs=(threads,))


def _use(threads: int) -> None:
    """Let this thread's operations use so many cores, for good."""
    torch.get_num_threads()  # a thread's first parallel operation takes over the default; let that be behind it
    torch.set_num_threads(threads)


def run_parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results of the tasks, which run at the same time, each on its share of the cores.

    An error of the first task to fail, in their order, is raised when all have ended.
    """
    cores = torch.get_num_threads()
    wait_policy.update()
    if len(tasks) < 2 or cores < 2:
        return [task() for task in tasks]
    workers = min(len(tasks), cores)
    futures = [_pool(workers, cores // workers, os.getpid()).submit(task) for task in tasks]
    for future in futures:
        future.exception()
    torch.set_num_threads(cores)  # a new worker's share became the default of threads to come
    return [future.result() for future in futures]


class ThreadedBatch(nn.Module):
    """``network`` evaluated on parts of the batch in threads: the same function, faster on a CPU with several cores.

    First derivatives pass; second ones and forward-mode ones do not. A network that draws random numbers (dropout) or
    changes its own state in a forward pass must not be threaded; see ``can_split``.

    Args:
        network: ``forward(x (B, ...), c_noise (B,), *conditions)``, each condition with ``select(slice)`` and
            ``tensors()``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, *conditions: Any) -> Tensor:
        parts = batch_slices(x)
        if len(parts) < 2 or _learns(c_noise, conditions):
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
        like = _arithmetic(x.device.type)

        def run(own: Tensor | None = None) -> Tensor:
            with torch.set_grad_enabled(grad), like(), differentiated_once():
                rows = x[part] if own is None else own
                out: Tensor = self.network(rows, c_noise[part], *(one.select(part) for one in conditions))
                return out

        return run


def batch_slices(x: Tensor) -> list[slice]:
    """The parts of a batch as slices; a single one where splitting gains nothing.

    Args:
        x: (B, ...).
    """
    count = min(num_parts(), len(x) // _FEWEST_SAMPLES) if x.device.type == "cpu" else 1
    if count < 2:
        return [slice(0, len(x))]
    rows = -(-len(x) // count)
    return [slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]


def can_split(network: nn.Module) -> bool:
    """Does a forward pass of ``network`` neither draw random numbers nor change the network, nor is it compiled?"""
    if network._compiled_call_impl is not None:
        return False
    return not any(
        (isinstance(part, nn.Dropout) and part.p > 0) or isinstance(part, nn.modules.batchnorm._BatchNorm)
        for part in network.modules()
    )


def threaded(network: nn.Module) -> nn.Module:
    """``network`` as a ``ThreadedBatch`` where it can be split, itself otherwise."""
    return ThreadedBatch(network) if can_split(network) else network


def _learns(c_noise: Tensor, conditions: Sequence[Any]) -> bool:
    """Does any input but x require a gradient, which parts would not give it?"""
    others = [c_noise, *(value for one in conditions for value in one.tensors().values())]
    return torch.is_grad_enabled() and any(value.requires_grad for value in others)


def _arithmetic(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The caller's autocast, to be entered in another thread."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


class _Parts(torch.autograd.Function):
    """Runs the tasks with gradients of their own; backward does the same and adds what parameters got."""

    @staticmethod
    def forward(ctx: Any, tasks: list[Any], inputs: list[Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        for part in inputs:
            part.requires_grad_(x.requires_grad)
        outs: list[Tensor] = run_parallel([_bound(task, part) for task, part in zip(tasks, inputs, strict=True)])
        ctx.outs, ctx.inputs, ctx.parameters, ctx.to_input = outs, inputs, parameters, x.requires_grad
        return torch.cat([out.detach() for out in outs])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        # with create_graph=True what came back would look like a constant; a second backward finds nothing left
        if torch.is_grad_enabled() or ctx.outs is None:
            raise RuntimeError("a threaded batch can be differentiated once only; evaluate the network itself")
        pieces = torch.split(gradient, [len(out) for out in ctx.outs])
        targets = [(*ctx.parameters, *([part] if ctx.to_input else [])) for part in ctx.inputs]
        tasks = [_backward(out, wanted, piece) for out, wanted, piece in zip(ctx.outs, targets, pieces, strict=True)]
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


def _backward(out: Tensor, wanted: Sequence[Tensor], gradient: Tensor) -> Callable[[], tuple[Tensor | None, ...]]:
    return lambda: torch.autograd.grad(out, wanted, gradient, allow_unused=True)


def _sums(parts: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
    """Gradients of the parameters, added over the parts in order; None where no part used it."""
    totals, *others = [[value for value in part if value is not None] for part in parts]
    for other in others if totals else ():  # a frozen network, of which only the input's gradient is wanted
        torch._foreach_add_(totals, other)
    left = iter(totals)
    return [None if value is None else next(left) for value in parts[0]]
