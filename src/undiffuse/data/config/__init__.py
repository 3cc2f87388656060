"""Configuration of the data sources, one model per source. Imports neither torch nor Pillow.

The loader of each source is registered in ``data.sources``.
"""

from __future__ import annotations

from undiffuse.data.config.arrays import DigitsConfig, IdxConfig, StackedMnistConfig
from undiffuse.data.config.base import MAX_SIDE, Colour, EncodedConfig, ImageConfig, LocationText, SourceConfig
from undiffuse.data.config.encoded import FolderConfig, TarConfig, TreeConfig, ZipConfig
from undiffuse.data.config.join import JoinConfig
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
from undiffuse.data.config.scenes import ScenesConfig

__all__ = [
    "MAX_SIDE",
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
    "ImageConfig",
    "JoinConfig",
    "LmdbConfig",
    "LocationText",
    "ParquetConfig",
    "RingsConfig",
    "ScenesConfig",
    "SourceConfig",
    "StackedMnistConfig",
    "SwissrollConfig",
    "TarConfig",
    "TreeConfig",
    "ZipConfig",
]
