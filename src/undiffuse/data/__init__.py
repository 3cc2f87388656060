"""Data sets of images and points with a common interface, their split, and the order in which training reads them.

Importing this package is cheap: the names below are imported lazily, on first access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.registry import resolve

if TYPE_CHECKING:
    from undiffuse.data.audit import describe, preview_grid
    from undiffuse.data.config import (
        ArraysConfig,
        CelebaConfig,
        CifarConfig,
        DigitsConfig,
        EmnistConfig,
        EmojiConfig,
        EncodedConfig,
        FfhqConfig,
        FolderConfig,
        GaussianRingConfig,
        GaussiansConfig,
        IdxConfig,
        ImageConfig,
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
    from undiffuse.data.config.loader import LoaderConfig
    from undiffuse.data.dataset import Batch, Dataset
    from undiffuse.data.load import load_dataset
    from undiffuse.data.loader import Loader
    from undiffuse.data.registry import SOURCE_CONFIGS, SOURCES
    from undiffuse.data.spec import source_config_for
    from undiffuse.data.split import split_by_content

__all__ = [
    "SOURCES",
    "SOURCE_CONFIGS",
    "ArraysConfig",
    "Batch",
    "CelebaConfig",
    "CifarConfig",
    "Dataset",
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
    "Loader",
    "LoaderConfig",
    "ParquetConfig",
    "RingsConfig",
    "ScenesConfig",
    "SourceConfig",
    "StackedMnistConfig",
    "SwissrollConfig",
    "TarConfig",
    "ZipConfig",
    "describe",
    "load_dataset",
    "preview_grid",
    "source_config_for",
    "split_by_content",
]

#: Import paths of the names that are not configuration models.
_LAZY = {
    "Batch": "undiffuse.data.dataset:Batch",
    "Dataset": "undiffuse.data.dataset:Dataset",
    "Loader": "undiffuse.data.loader:Loader",
    "LoaderConfig": "undiffuse.data.config.loader:LoaderConfig",
    "SOURCES": "undiffuse.data.registry:SOURCES",
    "SOURCE_CONFIGS": "undiffuse.data.registry:SOURCE_CONFIGS",
    "preview_grid": "undiffuse.data.audit:preview_grid",
    "describe": "undiffuse.data.audit:describe",
    "load_dataset": "undiffuse.data.load:load_dataset",
    "source_config_for": "undiffuse.data.spec:source_config_for",
    "split_by_content": "undiffuse.data.split:split_by_content",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY.get(name, f"undiffuse.data.config:{name}"))
