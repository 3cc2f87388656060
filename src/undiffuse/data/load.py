"""From a configuration to the set that it describes, by the table of sources."""

from __future__ import annotations

from undiffuse.data.config import EncodedConfig, ImageConfig, SourceConfig
from undiffuse.data.dataset import Dataset, of_classes
from undiffuse.data.registry import SOURCES
from undiffuse.data.storage.cache import open_cached, stamped
from undiffuse.data.storage.listing import listing
from undiffuse.errors import UsageError
from undiffuse.registry import resolve


def load_dataset(config: SourceConfig) -> Dataset:
    """The whole set that a configuration describes, before any split.

    Raises:
        UsageError: a missing, empty or damaged file, or options (classes among them) that do not fit it.
    """
    dataset = _read_encoded(config) if isinstance(config, EncodedConfig) else _read(config)
    if len(dataset) == 0:
        raise UsageError(f"the data source {config.name!r} is empty; expected at least one item")
    return of_classes(dataset, config.classes) if isinstance(config, ImageConfig) else dataset


def list_source(config: ImageConfig) -> Dataset:
    """All images of a source, of whatever class and of the size that they are found in.

    Returns:
        ``FileListing`` where they are encoded files; else a set whose items are the images.

    Raises:
        UsageError: as ``load_dataset``, but for what is found out by decoding.
    """
    with listing():
        return _read(config.model_copy(update={"size": None, "channels": None}))


def _read(config: SourceConfig) -> Dataset:
    dataset: Dataset = resolve(SOURCES[config.name].load)(config)
    return dataset


def _read_encoded(config: EncodedConfig) -> Dataset:
    """The set from the cache of decoded images, where it is there."""
    if (kept := open_cached(config)) is not None:
        return kept
    with stamped(config):
        return _read(config)
