"""A data source with the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.api.configuration.overrides import apply_overrides, read_options, read_value
from undiffuse.config import validate
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.data.prepare.settings import Filters, PrepareSettings
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe

#: Prefix of a source's keys in a run configuration. Every command that reads data accepts both forms, so that
#: advice can always use the longer one.
PREFIX = "data."


def as_recipe_reads(config: SourceConfig, recipe: str | None) -> SourceConfig:
    """The source with the data options of a recipe as far as it has the keys, as in ``train RECIPE --data``.

    Args:
        config: of the source.
        recipe: whose data options are applied; None leaves the source unchanged.
    """
    if recipe is None:
        return config
    found = apply_overrides(get_recipe(recipe), (), config).data
    assert isinstance(found, SourceConfig)
    return found


def configured(config: SourceConfig, options: Sequence[str], given: Mapping[str, Any] | None = None) -> SourceConfig:
    """A source's configuration with options applied; ``given`` takes precedence.

    Args:
        config: of the source.
        options: ``key=value`` or ``data.key=value`` texts; values are JSON or plain words.
        given: the same by key, with ``None`` for keys that are not given.
    Raises:
        UsageError: an unknown key (the nearest is named), or a value of the wrong type or range.
    """
    values = config.model_dump(exclude_unset=True)
    for option in options:
        key, value = read_option(option)
        values[key] = value
    for key, value in (given or {}).items():
        if value is not None:
            values[key] = read_value(value) if key == "background" else value
    return validate(type(config), {**values, "name": config.name}, f"data source {config.name!r}")


def read_option(option: str) -> tuple[str, Any]:
    """Key and value of ``data.key=value``, where ``data.`` may be left out."""
    key, equals, text = option.removeprefix(PREFIX).partition("=")
    if not equals or not key:
        raise UsageError(f"expected key=value, got {option!r}; for example data.labels=leaf")
    return key, read_value(text)


def supported_options(config: SourceConfig, options: Sequence[str]) -> list[str]:
    """The options that this source has, out of those for several sources.

    Args:
        config: of the source.
        options: ``key=value`` texts.
    """
    return [option for option in options if read_option(option)[0] in type(config).model_fields]


def check_options(sources: Sequence[SourceConfig], options: Sequence[str]) -> None:
    """Raise the error of the last source for an option that no source has.

    Args:
        sources: at least one must have each key.
        options: ``key=value`` texts.
    """
    for option in options:
        if sources and not any(supported_options(source, [option]) for source in sources):
            configured(sources[-1], [option])


def sized(source: SourceConfig, size: int | str | None) -> SourceConfig:
    """A source of images with the size of ``--size``.

    Args:
        source: of images.
        size: side length, or ``HEIGHTxWIDTH``; None leaves the source unchanged.
    Raises:
        UsageError: an invalid size.
    """
    if size is None or not isinstance(source, ImageConfig):
        return source
    return validate(type(source), {**source.model_dump(), "size": size}, "--size")


def prepare_settings(
    filters: Sequence[str], keep_duplicates: bool, on_error: str, of_source: str = "fail"
) -> PrepareSettings:
    """Settings of ``data prepare`` from the options of the command line.

    Args:
        filters: ``key=value`` of ``Filters``.
        keep_duplicates: keep images that are identical in every pixel.
        on_error: ``fail`` or ``skip``.
        of_source: ``on_error`` of the source; ``skip`` applies here too.
    Raises:
        UsageError: an unknown filter or option, or a value out of range.
    """
    words = {
        "filters": read_options(Filters, filters, "--filter").model_dump(),
        "duplicates": "keep" if keep_duplicates else "drop",
        "on_error": "skip" if of_source == "skip" else on_error,
    }
    return validate(PrepareSettings, words, "prepare")
