"""``key=value`` on the command line, applied to a recipe's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undiffuse.config import AsWritten, ComponentConfig, M, validate
from undiffuse.data.config import SourceConfig
from undiffuse.errors import UsageError
from undiffuse.registry import nearest
from undiffuse.sealed import parsed
from undiffuse.training.config import RunConfig


def apply_overrides(config: RunConfig, overrides: Sequence[str], data: SourceConfig | None = None) -> RunConfig:
    """A configuration with other data and other values under dotted keys.

    Args:
        config: the recipe's.
        overrides: ``optimizer.learning_rate=2e-4``, ``system.process.name=vp``; values are JSON or plain words.
        data: replaces the recipe's source; the recipe's picture options stay where the new source knows them.
    Raises:
        UsageError: an unknown key (the nearest is named), or a value of the wrong type or range.
    """
    values = config.model_dump(mode="json")
    if data is not None:
        values["data"] = _merged_source(config.data, data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"expected key=value, got {override!r}; for example num_images=50000")
        _put(values, key.split("."), read_value(text), key)
    return validate(RunConfig, values)


def read_options(model: type[M], options: Sequence[str], what: str) -> M:
    """``model`` from ``key=value`` texts, its defaults for the rest.

    Args:
        what: they are options of, for messages.
    Raises:
        UsageError: an unknown key (the nearest is named), one given twice, or a value of the wrong type or range.
    """
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise UsageError(f"expected key=value, got {option!r}; options of {what}: {', '.join(model.model_fields)}")
        if key in values:
            raise UsageError(f"option {key!r} of {what} is given twice; give it once")
        values[key] = _read_text(text) if _is_text(model, key) else read_value(text)
    return validate(model, values, what)


def _merged_source(old: ComponentConfig, new: SourceConfig) -> dict[str, Any]:
    """``new`` with what ``old`` says beyond its own defaults, which are not those of another source."""
    said, chosen = old.model_dump(mode="json", exclude_defaults=True), new.model_dump(mode="json", exclude_unset=True)
    known = type(new).model_fields.keys() - {"name", "path"}
    return {**{key: value for key, value in said.items() if key in known}, **chosen, "name": new.name}


def read_value(text: str) -> Any:
    """A value on the command line: JSON, Python's own words for true, false and nothing, or plain text."""
    try:
        return parsed(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _is_text(model: type[M], key: str) -> bool:
    return key in model.model_fields and any(isinstance(mark, AsWritten) for mark in model.model_fields[key].metadata)


def _read_text(text: str) -> str:
    """A text as it is; one in JSON's double quotes, which shells and scripts may want, without them."""
    value = read_value(text)
    return value if isinstance(value, str) else text


def _put(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    parent = values
    for part in path[:-1]:
        child = parent.get(part)
        if not isinstance(child, dict):
            known = [name for name, entry in parent.items() if isinstance(entry, dict)]
            raise UsageError(f"config has no section {part!r} (in {key!r}); {nearest(part, known)}")
        parent = child
    if path[-1] == "name" and parent.get("name") not in (None, value):
        parent.clear()  # another row of the registry has other options
    parent[path[-1]] = _component(parent.get(path[-1]), value)


def _component(old: Any, value: Any) -> Any:
    """``system.process=flow`` is short for ``system.process.name=flow``."""
    if isinstance(old, dict) and "name" in old and isinstance(value, str):
        return old if old["name"] == value else {"name": value}
    return value
