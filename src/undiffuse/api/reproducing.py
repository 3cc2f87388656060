"""The command that repeats a training: its recipe and the overrides of its configuration."""

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
    """The command ``undiffuse train RECIPE key=value ...`` with the configuration of a ``config.json``.

    It is verified first: empty if the recipe is unknown, or no such command gives the same configuration.
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
    """``key=value`` for every difference between a configuration and its recipe."""
    before, after = (one.model_dump(mode="json") for one in (get_recipe(config.recipe), config))
    return [f"{key}={_format_value(value)}" for key, value in _differences(before, after)]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves that differ; a component with another name is given as a whole, as its options differ."""
    for key, value in after.items():
        old = before.get(key)
        if value == old and key in before:
            continue
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name") == old.get("name"):
            yield from _differences(old, value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _format_value(value: Any) -> str:
    """Format a value for the command line: as plain text if that is parsed as such, else as JSON."""
    if isinstance(value, str) and read_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
