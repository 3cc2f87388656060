"""What a model must be to start a fine-tuning run, and which keys it fixes. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.errors import UsageError

#: Keys, with all keys in their section, that the weights of a model are for.
_FIXED = ("system.name", "system.process", "system.parameterization", "system.network", "system.learned_variance")
_FIXED_TEXT = "system.text"
#: Keys in these sections that may be changed.
_FREE = ("system.network.dropout", "system.text.length", "system.text.folder")
#: Keys of ``start`` that may be set.
_FREE_OF_START = ("start.like", "start.keep_classes")


def check_start(name: str, system: Mapping[str, Any]) -> None:
    """Check that a model can be fine-tuned.

    Args:
        name: the model.
        system: the section ``system`` of its configuration.
    Raises:
        UsageError: it is not a diffusion model.
    """
    kind = system.get("name")
    if kind == "diffusion":
        return
    if kind is not None and system.get("teacher") is not None:
        instead = "fine-tune the model it was distilled from, then distil that one"
    else:
        instead = "start from a diffusion model"
    raise UsageError(f"{name} is a {kind!r} model, and only diffusion models can be fine-tuned; {instead}")


def check_start_overrides(overrides: Sequence[str]) -> None:
    """Check that no override changes what the weights of the start model are for.

    Args:
        overrides: ``key=value`` texts.
    Raises:
        UsageError: with the keys that may be set.
    """
    for override in overrides:
        key = override.partition("=")[0]
        fixed = key == "system" or any(key == one or key.startswith(f"{one}.") for one in (*_FIXED, _FIXED_TEXT))
        if key.partition(".")[0] == "start" and not key.startswith(_FREE_OF_START):
            raise UsageError(f"{key} is set by --from; leave it out")
        if fixed and key not in _FREE:
            raise UsageError(
                f"{key} is fixed by the weights of the start model; leave it out (process, parameterization, network "
                "and text are the model's; all other keys, and system.network.dropout, may be set)"
            )
