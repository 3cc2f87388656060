"""torch.compile with a persistent cache, and a fallback if compilation fails."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from undiffuse.compute.private_folder import ensure_private
from undiffuse.user_cache import cache_home

#: The environment variable with the cache folder of torch's compiler; a value set by the user is not changed.
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_folder() -> Path:
    """``undiffuse/compiled`` in the user's cache folder."""
    return cache_home() / "undiffuse" / "compiled"


def compile_in_place(network: nn.Module) -> None:
    """Compile the network's calls with torch.compile, using the cache of earlier compilations.

    The first call of each shape compiles, which takes minutes on a small machine, and seconds from the cache. If
    compilation fails, for example without a C++ compiler, a warning is issued and the network runs uncompiled.
    """
    if _CACHE not in os.environ:  # before the imports, which would select a temporary folder
        os.environ[_CACHE] = str(ensure_private(cache_folder()))
    from torch._dynamo.exc import TorchDynamoException  # the import takes a second
    from torch._inductor.exc import InductorError

    network.compile()
    compiled = network._compiled_call_impl
    if compiled is None:  # compilation is disabled by TORCH_COMPILE_DISABLE
        return

    def call_with_fallback(*arguments: Any, **options: Any) -> Any:
        try:
            return compiled(*arguments, **options)
        except (TorchDynamoException, InductorError) as error:
            network._compiled_call_impl = None
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"compiling failed ({first}); continuing without", RuntimeWarning, stacklevel=2)
            return network(*arguments, **options)

    network._compiled_call_impl = call_with_fallback
