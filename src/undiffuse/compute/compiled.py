"""torch.compile with a cache that outlives the process, and a way back where compiling fails."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from undiffuse.compute import fused
from undiffuse.compute.cache import cache_folder

#: Where torch's compiler keeps what it made; set by the user, it is left as it is.
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
#: Of torch's compiler, by its name or itself.
_BACKEND: str | Callable[..., Any] = "inductor"


def compile_in_place(network: nn.Module) -> None:
    """Let torch compile the network's calls, from the cache where it has been compiled before.

    The first call of a shape compiles, which takes minutes on a small machine and seconds from the cache. If compiling
    fails, such as for want of a C++ compiler, one line says so and the network runs as it is.
    """
    os.environ.setdefault(_CACHE, str(cache_folder()))
    network.compile(backend=_BACKEND)
    if network._compiled_call_impl is not None:  # None by torch's own switch TORCH_COMPILE_DISABLE
        network._compiled_call_impl = _Compiled(network, network._compiled_call_impl)


class _Compiled:
    """The compiled calls of a network, which falls back to itself for good where compiling fails.

    Whether the fused norm is at hand differs from call to call, but must not within what is compiled. So it is compiled
    twice, once for either answer, which torch's compiler may then take for a constant.

    Args:
        network: to call.
        plain: its calls as torch compiled them, to be used without the fused norm.
    """

    def __init__(self, network: nn.Module, plain: Callable[..., Any]) -> None:
        from undiffuse.compute import operators  # noqa: F401  a second of importing, for those who compile

        torch.compiler.assume_constant_result(fused.at_hand)  # type: ignore[no-untyped-call]
        self._network, self._plain = network, plain

        def with_norm(*arguments: Any, **options: Any) -> Any:
            return network._call_impl(*arguments, **options)  # type: ignore[no-untyped-call]

        self._with_norm = torch.compile(with_norm, backend=_whole_and_released)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            if not fused.at_hand():
                return self._plain(*arguments, **options)
            with _LOOKING_UP:
                return self._with_norm(*arguments, **options)
        except (TorchDynamoException, InductorError) as error:
            self._network._compiled_call_impl = None
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"compiling failed ({first}); going on without", RuntimeWarning, stacklevel=2)
            return self._network(*arguments, **options)


class _Turn(AbstractContextManager[None]):
    """One thread at a time, each until it leaves or passes its turn on."""

    def __init__(self) -> None:
        self._lock, self._mine = threading.Lock(), threading.local()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._mine.turn = True

    def pass_on(self) -> None:
        if getattr(self._mine, "turn", False):
            self._mine.turn = False
            self._lock.release()

    def __exit__(self, *error: object) -> None:
        self.pass_on()


#: Held while a call looks for compiled code that fits it, or compiles it. Of shards that look at the same time all
#: would compile, and some find that nothing fits though it does: torch checks its conditions in a state they share.
_LOOKING_UP = _Turn()


def _whole_and_released(graph: torch.fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
    """Forward and backward compiled together, within the turn of the call, which ends when their code is entered."""
    from torch._dynamo import lookup_backend
    from torch._functorch import config

    with config.patch(force_non_lazy_backward_lowering=True):
        run = lookup_backend(_BACKEND)(graph, example)

    def released(*arguments: Any) -> Any:
        _LOOKING_UP.pass_on()
        return run(*arguments)

    return released
