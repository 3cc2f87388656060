"""``key=value`` on the command line, applied to a recipe's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undiffuse.api.configuration.parsing import read_value as read_value
from undiffuse.api.configuration.placing import Override, merged_source, put
from undiffuse.augment.config import AUGMENTATIONS
from undiffuse.config import AsWritten, M, validate
from undiffuse.data.config import SourceConfig
from undiffuse.errors import UsageError
from undiffuse.observer import note
from undiffuse.training.config import RunConfig


def apply_overrides(config: RunConfig, overrides: Sequence[str], data: SourceConfig | None = None) -> RunConfig:
    """A configuration with other data and other values under dotted keys, whatever their order.

    Where a ``name`` changes, what the configuration said of the old row stays as far as the new one takes it; what does
    not is said in a note. Of two values for one key the last counts.

    Args:
        config: the recipe's.
        overrides: ``optimizer.learning_rate=2e-4``, ``system.process.name=vp``; values are JSON or plain words.
        data: replaces the recipe's source; the recipe's image options stay where the new source knows them.
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
    put(type(config), values, requested, notes)
    _mirror_once(values, {one.path[0] for one in requested})
    result = validate(type(config), values)
    for text in notes:
        note(text)
    return result


def _mirror_once(values: dict[str, Any], said: set[str]) -> None:
    """A recipe's ``random_flip`` gives way to an augmentation that is asked for and mirrors images itself."""
    augment = values.get("augment")
    if "augment" not in said or "random_flip" in said or not isinstance(augment, dict):
        return
    model = AUGMENTATIONS.get(str(augment.get("name")))
    flip = augment.get("flip", model.model_fields["flip"].default if model is not None else 0.0)
    if flip:
        values["random_flip"] = False


def read_options(model: type[M], options: Sequence[str], what: str) -> M:
    """``model`` from ``key=value`` texts, its defaults for the rest.

    Args:
        model: the options as a model of plain configuration.
        options: ``key=value`` texts.
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


def _is_text(model: type[M], key: str) -> bool:
    return key in model.model_fields and any(isinstance(mark, AsWritten) for mark in model.model_fields[key].metadata)


def _read_text(text: str) -> str:
    """A text as it is; one in JSON's double quotes, which shells and scripts may want, without them."""
    value = read_value(text)
    return value if isinstance(value, str) else text
