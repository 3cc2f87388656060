"""Registry of data sources: the configuration model and the loader function of each source.

A new source is one module in ``sources`` and one entry here. Imports neither torch nor Pillow.
"""

from __future__ import annotations

from typing import NamedTuple

from undiffuse.data.config import (
    ArraysConfig,
    CelebaConfig,
    CifarConfig,
    DigitsConfig,
    EmnistConfig,
    EmojiConfig,
    FfhqConfig,
    FolderConfig,
    GaussianRingConfig,
    GaussiansConfig,
    IdxConfig,
    JoinConfig,
    LmdbConfig,
    ParquetConfig,
    RingsConfig,
    ScenesConfig,
    SourceConfig,
    StackedMnistConfig,
    SwissrollConfig,
    TarConfig,
    ZipConfig,
)


class Source(NamedTuple):
    """Registry entry of a data source.

    Attributes:
        config: configuration model.
        load: ``module:function`` that creates the ``Dataset`` from a configuration.
        is_composite: whether the function also takes one that lists the images of another source.
    """

    config: type[SourceConfig]
    load: str
    is_composite: bool = False


SOURCES: dict[str, Source] = {
    "digits": Source(DigitsConfig, "undiffuse.data.sources.digits:load"),
    "swissroll": Source(SwissrollConfig, "undiffuse.data.sources.synthetic:load_swissroll"),
    "rings": Source(RingsConfig, "undiffuse.data.sources.synthetic:load_rings"),
    "gaussians": Source(GaussiansConfig, "undiffuse.data.sources.synthetic:load_gaussians"),
    "gaussian_ring": Source(GaussianRingConfig, "undiffuse.data.sources.synthetic:load_gaussian_ring"),
    "idx": Source(IdxConfig, "undiffuse.data.sources.idx:load"),
    "stacked_mnist": Source(StackedMnistConfig, "undiffuse.data.sources.stacked:load"),
    "folder": Source(FolderConfig, "undiffuse.data.sources.folder:load"),
    "zip": Source(ZipConfig, "undiffuse.data.sources.zip:load"),
    "tar": Source(TarConfig, "undiffuse.data.sources.tar:load"),
    "cifar": Source(CifarConfig, "undiffuse.data.sources.cifar:load"),
    "emnist": Source(EmnistConfig, "undiffuse.data.sources.emnist:load"),
    "arrays": Source(ArraysConfig, "undiffuse.data.sources.arrays:load"),
    "parquet": Source(ParquetConfig, "undiffuse.data.sources.parquet:load"),
    "lmdb": Source(LmdbConfig, "undiffuse.data.sources.lmdb:load"),
    "celeba": Source(CelebaConfig, "undiffuse.data.sources.celeba:load"),
    "ffhq": Source(FfhqConfig, "undiffuse.data.sources.ffhq:load"),
    "emoji": Source(EmojiConfig, "undiffuse.data.sources.emoji:load"),
    "join": Source(JoinConfig, "undiffuse.data.sources.join:load", is_composite=True),
    "scenes": Source(ScenesConfig, "undiffuse.data.sources.scenes.source:load"),
}

#: Configuration models by source name.
SOURCE_CONFIGS: dict[str, type[SourceConfig]] = {name: source.config for name, source in SOURCES.items()}
