"""Configuration of the data loader. It does not affect the results of a run. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from undiffuse.config import FrozenModel

_MAX_WORKERS = 256


def _checked_workers(value: Any) -> Any:
    """Check a number of processes or ``auto``."""
    if value != "auto" and not (type(value) is int and 0 <= value <= _MAX_WORKERS):
        raise ValueError(f"expected auto or a number of processes in 0..{_MAX_WORKERS}, got {value!r}")
    return value


class LoaderConfig(FrozenModel):
    """Options of the data loader; they affect the speed of training, never its result.

    Args:
        workers: processes that fetch and decode ahead of training; 0 loads in the training process on demand.
            ``auto``: 0 for sets that are decoded in memory or in the cache; otherwise the number of cores minus one,
            at most 8.
        prefetch: batches prefetched by each worker.
        resident: keep the whole set on the device, as uint8. ``auto``: if the device is a GPU and the set is decoded
            and takes at most a quarter of its free memory.
    """

    workers: Annotated[Literal["auto"] | int, BeforeValidator(_checked_workers)] = "auto"
    prefetch: Annotated[int, Field(ge=1, le=1000)] = 2
    resident: Literal["auto"] | bool = "auto"
