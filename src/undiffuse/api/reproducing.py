"""The command that trains a run again: its recipe and what its configuration has otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from undiffuse.api.configuration.overrides import apply_overrides, read_value
from undiffuse.config import validate
from undiffuse.errors import UsageError
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.training.config import RunConfig
from undiffuse.wording import command


def reproducing_command(record: Mapping[str, Any]) -> str:
    """``undiffuse train RECIPE key=value ...`` that gives the configuration of a ``config.json`` again.

    Tried out before it is said: "" where the recipe is not known, or no such command gives the same configuration.
    """
    try:
        wanted = validate(RunConfig, record["config"])
        if wanted.recipe not in RECIPES:
            return ""
        overrides = overrides_for(wanted)
        if apply_overrides(get_recipe(wanted.recipe), overrides) != wanted:
            return ""
    except UsageError:
        return ""
    return command("train", wanted.recipe, *overrides)


def overrides_for(config: RunConfig) -> list[str]:
    """``key=value`` for everything in which a configuration differs from its recipe."""
    before, after = (one.model_dump(mode="json") for one in (get_recipe(config.recipe), config))
    return [f"{key}={_written(value)}" for key, value in _differing(before, after)]


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves that differ; a component of another name is given whole, for its options are others."""
    for key, value in after.items():
        old = before.get(key)
        if value == old and key in before:
            continue
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name") == old.get("name"):
            yield from _differing(old, value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _written(value: Any) -> str:
    """A value as the command line reads it: a plain word where that is read as itself, else JSON."""
    if isinstance(value, str) and read_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
