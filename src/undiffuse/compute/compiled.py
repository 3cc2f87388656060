"""torch.compile with a cache that outlives the process, and a way back where compiling fails."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from undiffuse.compute.private_folder import private

#: Where torch's compiler keeps what it made; set by the user, it is left as it is.
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_folder() -> Path:
    """``undiffuse/compiled`` in the user's folder for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "undiffuse" / "compiled"


def compile_in_place(network: nn.Module) -> None:
    """Let torch compile the network's calls, from the cache where it has been compiled before.

    The first call of a shape compiles, which takes minutes on a small machine, and seconds from the cache. If compiling
    fails, as it does without a C++ compiler, a warning is given and the network runs uncompiled.
    """
    if _CACHE not in os.environ:  # first: the imports choose a temporary folder themselves
        os.environ[_CACHE] = str(private(cache_folder()))
    from torch._dynamo.exc import TorchDynamoException  # a second of importing, for those who compile
    from torch._inductor.exc import InductorError

    network.compile()
    compiled = network._compiled_call_impl
    if compiled is None:  # torch's own switch TORCH_COMPILE_DISABLE
        return

    def or_plain(*arguments: Any, **options: Any) -> Any:
        try:
            return compiled(*arguments, **options)
        except (TorchDynamoException, InductorError) as error:
            network._compiled_call_impl = None
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"compiling failed ({first}); going on without", RuntimeWarning, stacklevel=2)
            return network(*arguments, **options)

    network._compiled_call_impl = or_plain
