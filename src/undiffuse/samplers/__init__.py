"""Samplers as step functions, time grids, and the one loop that runs them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from undiffuse.errors import UsageError
from undiffuse.registry import lookup, nearest

if TYPE_CHECKING:
    from undiffuse.samplers.base import Sampler

SAMPLERS = {
    "ancestral": "undiffuse.samplers.ancestral:ancestral",
    "ddim": "undiffuse.samplers.ancestral:ddim",
    "euler": "undiffuse.samplers.ode:euler",
    "heun": "undiffuse.samplers.ode:heun",
    "dpmpp_2m": "undiffuse.samplers.ode:dpmpp_2m",
}


def make_sampler(spec: str) -> Sampler:
    """A sampler from ``name`` or ``name:option=value,option=value``, such as ``ddim:eta=0.5``.

    Raises:
        UsageError: an unknown sampler or option, or a value it refuses; the nearest known name is given.
    """
    name, _, rest = spec.partition(":")
    factory = lookup(SAMPLERS, name, "sampler")
    known = inspect.signature(factory).parameters
    options: dict[str, str | float] = {}
    for item in filter(None, rest.split(",")):
        key, _, text = item.partition("=")
        if key not in known:
            raise UsageError(
                f"sampler {name!r} has no option {key!r}; {nearest(key, known) if known else 'it has none'}"
            )
        options[key] = _typed(text, known[key].default, f"sampler option {name}:{key}")
    sampler: Sampler = factory(**options)
    return sampler


def _typed(text: str, default: object, what: str) -> str | float:
    if not isinstance(default, int | float):
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{what} must be a number, got {text!r}") from None
