"""Limits the size of a network that is built from an untrusted description to the size of its weights file."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from undiffuse.errors import UsageError

#: Upper bound of registrations per tensor: weight normalization, for example, registers a weight twice.
_SPARE = 2


@contextmanager
def limited_to(shapes: Iterable[Sequence[int]]) -> Iterator[None]:
    """Context manager that limits modules built in this thread to the number and total size of these tensors.

    A parameter is counted when its module registers it, before it is initialized: memory that is allocated but not
    written to is not used.

    Raises:
        UsageError: if the modules have more parameters and buffers.
    """
    sizes = [prod(shape) for shape in shapes]
    count = _Count(_SPARE * len(sizes), _SPARE * sum(sizes), threading.get_ident())
    handles = [
        hooks.register_module_parameter_registration_hook(count.add),
        hooks.register_module_buffer_registration_hook(count.add),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Count:
    """Counts tensors registered by a thread and raises UsageError above the limits."""

    def __init__(self, max_tensors: int, max_numbers: int, thread: int) -> None:
        self._max, self._thread = (max_tensors, max_numbers), thread
        self._tensors = self._numbers = 0

    def add(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """Registration hook that counts ``value``."""
        if value is None or threading.get_ident() != self._thread:
            return
        self._tensors, self._numbers = self._tensors + 1, self._numbers + value.numel()
        if self._tensors > self._max[0] or self._numbers > self._max[1]:
            raise UsageError(
                f"config.json describes a network larger than its weights, which have {self._max[1] // _SPARE:,} "
                f"numbers in {self._max[0] // _SPARE} tensors; it is damaged, or of another model"
            )
