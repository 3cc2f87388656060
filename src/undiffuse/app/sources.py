"""A data source with the options that the command line gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.app.overrides import read_value
from undiffuse.config import validate
from undiffuse.data.config import SourceConfig
from undiffuse.errors import UsageError


def configured(config: SourceConfig, options: Sequence[str], given: Mapping[str, Any] | None = None) -> SourceConfig:
    """A source's configuration with options applied; those with a name of their own win.

    Args:
        config: what the source's own text stands for.
        options: ``key=value`` texts; values are JSON or plain words.
        given: the same from options of their own, with ``None`` for what was not given.
    Raises:
        UsageError: an unknown key (the nearest is named), or a value of the wrong type or range.
    """
    values = config.model_dump(exclude_unset=True)
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise UsageError(f"expected key=value, got {option!r}; for example labels=leaf")
        values[key] = read_value(text)
    for key, value in (given or {}).items():
        if value is not None:
            values[key] = read_value(value) if key == "background" else value
    return validate(type(config), {**values, "name": config.name}, f"data source {config.name!r}")
