"""``key=value`` on the command line, applied to a recipe's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undiffuse.api.configuration.parsing import read_value as read_value
from undiffuse.api.configuration.placing import Override, merged_source, set_values
from undiffuse.augment.config import AUGMENTATIONS
from undiffuse.config import AsWritten, M, validate
from undiffuse.data.config import SourceConfig
from undiffuse.errors import UsageError
from undiffuse.observer import note
from undiffuse.training.config import RunConfig


def apply_overrides(config: RunConfig, overrides: Sequence[str], data: SourceConfig | None = None) -> RunConfig:
    """Apply another data source and values under dotted keys to a configuration; the order does not matter.

    If a ``name`` changes, the options set for the old row are kept as far as the new one has them; the others are
    listed in a note. The last of several values for one key is used.

    Args:
        config: the recipe's.
        overrides: ``optimizer.learning_rate=2e-4``, ``system.process.name=vp``; values are JSON or plain words.
        data: replaces the recipe's source; the recipe's image options are kept if the new source has them.
    Raises:
        UsageError: an unknown key (the nearest is named), or a value of the wrong type or range.
    """
    values, notes = config.model_dump(mode="json"), list[str]()
    if data is not None:
        values["data"] = merged_source(config.data, data, notes)
    requested = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"expected key=value, got {override!r}; for example num_images=50000")
        requested.append(Override(tuple(key.split(".")), read_value(text), key))
    set_values(type(config), values, requested, notes)
    _flip_once(values, {one.path[0] for one in requested})
    result = validate(type(config), values)
    for text in notes:
        note(text)
    return result


def _flip_once(values: dict[str, Any], keys: set[str]) -> None:
    """Switch off a recipe's ``random_flip`` if a requested augmentation flips images itself."""
    augment = values.get("augment")
    if "augment" not in keys or "random_flip" in keys or not isinstance(augment, dict):
        return
    model = AUGMENTATIONS.get(str(augment.get("name")))
    flip = augment.get("flip", model.model_fields["flip"].default if model is not None else 0.0)
    if flip:
        values["random_flip"] = False


def read_options(model: type[M], options: Sequence[str], what: str) -> M:
    """Parse ``key=value`` texts into ``model``, with its defaults for the rest.

    Args:
        model: configuration model of the options.
        options: ``key=value`` texts.
        what: name of their owner, for messages.
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


def _is_text(model: type[M], key: str) -> bool:
    return key in model.model_fields and any(isinstance(mark, AsWritten) for mark in model.model_fields[key].metadata)


def _read_text(text: str) -> str:
    """The text itself, without JSON quotes if it has them."""
    value = read_value(text)
    return value if isinstance(value, str) else text
