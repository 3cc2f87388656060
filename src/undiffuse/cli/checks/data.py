"""Checks of data arguments before the configurations of the data sources are imported, which takes 0.2 s.

The options of a source are known from its name. For a path, its kind has to be detected first, so its options are
checked together with their values. Nothing of ``data`` is imported if no data is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.arguments import check_data_named
from undiffuse.cli.checks.outline import names_in, options_of, rows_of
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

_SOURCES = "undiffuse.data.registry:SOURCES"
_AUGMENTATIONS = "undiffuse.augment.config:AUGMENTATIONS"
_PREFIX = "data."


def check_data(spec: str | None) -> None:
    """Check that ``spec`` names a data source or an existing path."""
    if spec is None:
        return
    rows = rows_of(_SOURCES)
    name, colon, path = spec.partition(":")
    if name in rows and (path or not colon):
        settled = _check_named(bool(path), "path" in options_of(rows[name]), path)
    else:
        settled = _check_path(spec)
    if not settled:
        from undiffuse.data.spec import source_config_for

        source_config_for(spec)


def _check_named(has_path: bool, takes_path: bool, path: str) -> bool:
    """Check ``name`` or ``name:path``; whether no further check is needed."""
    from undiffuse.data.sources.layout.tar_files import names_shards

    if has_path and takes_path and not Path(path).expanduser().exists() and not names_shards(path):
        raise UsageError(f"no such file or folder: {Path(path).expanduser()}")
    return has_path == takes_path


def _check_path(spec: str) -> bool:
    """Check a path; whether no further check is needed: any folder is valid, but a file may be of an unknown kind."""
    from undiffuse.data.readers.text import readable
    from undiffuse.data.sources.layout.naming import no_source
    from undiffuse.data.sources.layout.tar_files import names_shards

    location = Path(spec).expanduser()
    if spec and location.exists():
        return location.is_dir() and readable(spec) == spec
    if readable(spec) == spec and not names_shards(spec):
        raise no_source(spec, names_in(_SOURCES))
    return False


def check_augmentation(name: str | None) -> None:
    """Check the name of an augmentation."""
    if name is not None and name not in (known := names_in(_AUGMENTATIONS)):
        raise UsageError(f"unknown augmentation {name!r}; {nearest(name, known)}")


def check_augmentation_grid(augment: str | None, grid: str | Path | None) -> None:
    """Raise UsageError for an augmentation without a grid to show it on."""
    if augment is not None and grid is None:
        raise UsageError(f"--augment {augment} is shown on a grid; add --grid FILE")


def check_data_options(data: str | None, options: Sequence[str]) -> None:
    """Raise UsageError for data options without data, and as ``check_source`` does."""
    check_data_named(data, options)
    check_source(data, options)


def check_source(spec: str | None, options: Sequence[str], given: Mapping[str, Any] | None = None) -> None:
    """Check a data source and the keys and values of its options.

    Args:
        spec: the data, as on the command line.
        options: ``key=value`` strings.
        given: values of options with their own flags; ``None`` for those that were not given.
    """
    check_data(spec)
    if spec is None:
        return
    _check_keys(spec.partition(":")[0], options)
    if options or any(value is not None for value in (given or {}).values()):
        from undiffuse.api.configuration.sources import configured
        from undiffuse.data.spec import source_config_for

        configured(source_config_for(spec), options, given)


def check_prepare_settings(filters: Sequence[str], on_error: str) -> None:
    """Check the filters and the error mode of ``data prepare``."""
    if filters or on_error not in ("fail", "skip"):
        from undiffuse.api.configuration.sources import prepare_settings

        prepare_settings(filters, False, on_error)


def check_pair(specs: Sequence[str], options: Sequence[str], size: str | None) -> None:
    """Check two data sources, options that at least one of them must have, and a size."""
    for spec in specs:
        check_data(spec)
    if not options and size is None:
        return
    from undiffuse.api.configuration.sources import check_options, configured, sized, supported_options
    from undiffuse.data.spec import source_config_for

    sources = [source_config_for(spec) for spec in specs]
    check_options(sources, options)
    requested = [configured(source, supported_options(source, options)) for source in reversed(sources)]
    sized(requested[0], size)


def _check_keys(name: str, options: Sequence[str]) -> None:
    if name not in (rows := rows_of(_SOURCES)):
        return
    known = options_of(rows[name])
    for option in options:
        key, equals, _ = option.removeprefix(_PREFIX).partition("=")
        if equals and key and key not in known:
            raise UsageError(f"data source {name!r} has no key {key!r}; {nearest(key, known)}")
