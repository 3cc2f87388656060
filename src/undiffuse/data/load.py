"""Loading the data set that a configuration describes, with the loader registered for its source."""

from __future__ import annotations

from pathlib import Path

from undiffuse.data.class_captions import with_class_captions
from undiffuse.data.config import EncodedConfig, ImageConfig, SourceConfig
from undiffuse.data.dataset import Dataset, select_classes
from undiffuse.data.registry import SOURCES
from undiffuse.data.spec import source_config_for
from undiffuse.data.storage.cache import open_cached, stamped
from undiffuse.data.storage.listing import listing
from undiffuse.errors import UsageError
from undiffuse.registry import resolve


def load_dataset(config: SourceConfig) -> Dataset:
    """Load the whole data set that a configuration describes, before any split.

    Raises:
        UsageError: if a file is missing, empty or damaged, or options (such as classes) do not fit it.
    """
    dataset = _read_encoded(config) if isinstance(config, EncodedConfig) else _read(config)
    if len(dataset) == 0:
        raise UsageError(f"the data source {config.name!r} is empty; expected at least one item")
    if not isinstance(config, ImageConfig):
        return dataset
    return with_class_captions(select_classes(dataset, config.classes), config)


def list_source(config: ImageConfig) -> Dataset:
    """List all images of a source: all classes, at their original size.

    Returns:
        ``FileListing`` for encoded files; otherwise a data set of the images.

    Raises:
        UsageError: as ``load_dataset``, except for errors that only decoding finds.
    """
    with listing():
        return _read(config.model_copy(update={"size": None, "channels": None}))


def _read(config: SourceConfig) -> Dataset:
    source = SOURCES[config.name]
    load = resolve(source.load)
    dataset: Dataset = load(config, _list_part) if source.is_composite else load(config)
    return dataset


def _list_part(location: Path, on_error: str) -> Dataset:
    """List the images of a part of a composite source, without classes."""
    config = source_config_for(str(location))
    if not isinstance(config, EncodedConfig):
        raise UsageError(f"{location}: a source {config.name!r}; expected a folder, archive or table of images")
    return list_source(config.model_copy(update={"on_error": on_error, "labels": "none"}))


def _read_encoded(config: EncodedConfig) -> Dataset:
    """Open the cache of decoded images if there is one; otherwise read the source."""
    if (cached := open_cached(config)) is not None:
        return cached
    with stamped(config):
        return _read(config)
