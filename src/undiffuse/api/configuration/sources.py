"""A data source with the options that the command line gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.api.configuration.overrides import apply_overrides, read_options, read_value
from undiffuse.config import validate
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.data.prepare.settings import Filters, PrepareSettings
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe

#: What a key of a source begins with in a whole configuration. Every command that reads data takes both forms, so that
#: advice may name the longer one wherever it is given.
PREFIX = "data."


def as_recipe_reads(config: SourceConfig, recipe: str | None) -> SourceConfig:
    """The source with what a recipe says about its data where it knows the keys, as ``train RECIPE --data`` has it.

    Args:
        config: of the source.
        recipe: whose options of data are taken over; None leaves the source as it is.
    """
    if recipe is None:
        return config
    found = apply_overrides(get_recipe(recipe), (), config).data
    assert isinstance(found, SourceConfig)
    return found


def configured(config: SourceConfig, options: Sequence[str], given: Mapping[str, Any] | None = None) -> SourceConfig:
    """A source's configuration with options applied; those with a name of their own win.

    Args:
        config: what the source's own text stands for.
        options: ``key=value`` or ``data.key=value`` texts; values are JSON or plain words.
        given: the same from options of their own, with ``None`` for what was not given.
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
    """Those of the options that this source knows, where they are meant for several at once.

    Args:
        config: of the source.
        options: ``key=value`` texts.
    """
    return [option for option in options if read_option(option)[0] in type(config).model_fields]


def check_options(sources: Sequence[SourceConfig], options: Sequence[str]) -> None:
    """An option that none of several sources knows is refused in the words of the last.

    Args:
        sources: one of which has to know each key.
        options: ``key=value`` texts.
    """
    for option in options:
        if sources and not any(supported_options(source, [option]) for source in sources):
            configured(sources[-1], [option])


def sized(source: SourceConfig, size: int | str | None) -> SourceConfig:
    """A source of images brought to the size that ``--size`` says.

    Args:
        source: of images.
        size: of a side, or ``HEIGHTxWIDTH``; None leaves it as it is.
    Raises:
        UsageError: no size.
    """
    if size is None or not isinstance(source, ImageConfig):
        return source
    return validate(type(source), {**source.model_dump(), "size": size}, "--size")


def prepare_settings(
    filters: Sequence[str], keep_duplicates: bool, on_error: str, of_source: str = "fail"
) -> PrepareSettings:
    """What ``data prepare`` leaves out, from the words of the command line.

    Args:
        filters: ``key=value`` of ``Filters``.
        keep_duplicates: keep images that come out the same in every pixel.
        on_error: ``fail`` or ``skip``.
        of_source: the source's own ``on_error``, which may say ``skip`` as well.
    Raises:
        UsageError: an unknown filter or word, or a value out of range.
    """
    words = {
        "filters": read_options(Filters, filters, "--filter").model_dump(),
        "duplicates": "keep" if keep_duplicates else "drop",
        "on_error": "skip" if of_source == "skip" else on_error,
    }
    return validate(PrepareSettings, words, "prepare")
