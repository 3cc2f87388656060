"""Building a network from an untrusted description: never larger than the weights that are there for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from undiffuse.errors import UsageError

#: Parts that a network registers twice, such as weights that a norm takes the place of.
_SPARE = 2


@contextmanager
def limited_to(shapes: Iterable[Sequence[int]]) -> Iterator[None]:
    """What this thread builds in here has no more parameters and buffers than these tensors, in number and in size.

    A parameter is counted when its module registers it, before it is initialised: memory that was allocated and never
    written to costs nothing.

    Raises:
        UsageError: it would have more.
    """
    sizes = [prod(shape) for shape in shapes]
    held = _Count(_SPARE * len(sizes), _SPARE * sum(sizes), threading.get_ident())
    handles = [
        hooks.register_module_parameter_registration_hook(held.add),
        hooks.register_module_buffer_registration_hook(held.add),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Count:
    def __init__(self, most_tensors: int, most_numbers: int, thread: int) -> None:
        self._most, self._thread = (most_tensors, most_numbers), thread
        self._tensors = self._numbers = 0

    def add(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != self._thread:
            return
        self._tensors, self._numbers = self._tensors + 1, self._numbers + value.numel()
        if self._tensors > self._most[0] or self._numbers > self._most[1]:
            raise UsageError(
                f"config.json describes a network larger than its weights: {self._most[1] // _SPARE:,} numbers in "
                f"{self._most[0] // _SPARE} tensors are there; it is damaged, or of another model"
            )
