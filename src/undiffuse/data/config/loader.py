"""How items get from a data set to the device. Nothing here has any part in the result of a run. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from undiffuse.config import FrozenModel

_MOST_WORKERS = 256


def _checked_workers(value: Any) -> Any:
    """A number or ``auto``; the message says both."""
    if value != "auto" and not (type(value) is int and 0 <= value <= _MOST_WORKERS):
        raise ValueError(f"expected auto or a number of processes in 0..{_MOST_WORKERS}, got {value!r}")
    return value


class LoaderConfig(FrozenModel):
    """How items get to the device; it changes how long training takes, never what comes out.

    Args:
        workers: processes that fetch and decode ahead of training; 0 does so in the training process when a batch is
            wanted. ``auto``: 0 for sets that lie decoded in memory or in the cache; for others one a core but one, at
            most 8.
        prefetch: batches that each worker has ready.
        resident: keep the whole set on the device, as uint8. ``auto``: where the device is a GPU and the set, decoded
            already, takes at most a quarter of its free memory.
    """

    workers: Annotated[Literal["auto"] | int, BeforeValidator(_checked_workers)] = "auto"
    prefetch: Annotated[int, Field(ge=1, le=1000)] = 2
    resident: Literal["auto"] | bool = "auto"
