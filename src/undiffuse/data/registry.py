"""The table of sources: of each the model of its configuration, and the function that loads what one describes.

A new source is one module in ``formats`` and one row here. Imports neither torch nor Pillow.
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
    LmdbConfig,
    ParquetConfig,
    RingsConfig,
    SourceConfig,
    StackedMnistConfig,
    SwissrollConfig,
    TarConfig,
    ZipConfig,
)


class Source(NamedTuple):
    """A row of the table.

    Attributes:
        config: the model of its configuration.
        load: ``module:function`` that makes the ``Dataset`` of such a configuration.
    """

    config: type[SourceConfig]
    load: str


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
}

#: The models alone, by the name of their source.
SOURCE_CONFIGS: dict[str, type[SourceConfig]] = {name: source.config for name, source in SOURCES.items()}
