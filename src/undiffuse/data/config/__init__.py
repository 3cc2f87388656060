"""Configuration of the data sources, one model a source. Imports neither torch nor Pillow.

``SOURCES`` is the registry: a row is the model of a source, and the model names the function that loads it. A new
source is one module in ``formats`` and one row here.
"""

from __future__ import annotations

from undiffuse.data.config.arrays import DigitsConfig, IdxConfig, StackedMnistConfig
from undiffuse.data.config.base import MAX_SIDE, Colour, EncodedConfig, LocationText, PictureConfig, SourceConfig
from undiffuse.data.config.encoded import FolderConfig, TarConfig, TreeConfig, ZipConfig
from undiffuse.data.config.points import GaussianRingConfig, GaussiansConfig, RingsConfig, SwissrollConfig
from undiffuse.data.config.published import (
    ArraysConfig,
    CelebaConfig,
    CifarConfig,
    EmnistConfig,
    EmojiConfig,
    FfhqConfig,
    LmdbConfig,
    ParquetConfig,
)

__all__ = [
    "MAX_SIDE",
    "SOURCES",
    "ArraysConfig",
    "CelebaConfig",
    "CifarConfig",
    "Colour",
    "DigitsConfig",
    "EmnistConfig",
    "EmojiConfig",
    "EncodedConfig",
    "FfhqConfig",
    "FolderConfig",
    "GaussianRingConfig",
    "GaussiansConfig",
    "IdxConfig",
    "LmdbConfig",
    "LocationText",
    "ParquetConfig",
    "PictureConfig",
    "RingsConfig",
    "SourceConfig",
    "StackedMnistConfig",
    "SwissrollConfig",
    "TarConfig",
    "TreeConfig",
    "ZipConfig",
]

SOURCES: dict[str, type[SourceConfig]] = {
    "digits": DigitsConfig,
    "swissroll": SwissrollConfig,
    "rings": RingsConfig,
    "gaussians": GaussiansConfig,
    "gaussian_ring": GaussianRingConfig,
    "idx": IdxConfig,
    "stacked_mnist": StackedMnistConfig,
    "folder": FolderConfig,
    "zip": ZipConfig,
    "tar": TarConfig,
    "cifar": CifarConfig,
    "emnist": EmnistConfig,
    "arrays": ArraysConfig,
    "parquet": ParquetConfig,
    "lmdb": LmdbConfig,
    "celeba": CelebaConfig,
    "ffhq": FfhqConfig,
    "emoji": EmojiConfig,
}
