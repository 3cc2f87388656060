"""Sources of pictures and points behind one contract, their split, and the order in which training sees them.

Importing this package costs nothing; what is named below is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undiffuse.data.audit import contact_sheet, describe
    from undiffuse.data.config import (
        SOURCES,
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
        LmdbConfig,
        ParquetConfig,
        PictureConfig,
        RingsConfig,
        SourceConfig,
        StackedMnistConfig,
        SwissrollConfig,
        TarConfig,
        ZipConfig,
    )
    from undiffuse.data.loader import Loader
    from undiffuse.data.loading import LoaderConfig
    from undiffuse.data.source import Batch, Dataset, load_dataset
    from undiffuse.data.spec import source_config_for
    from undiffuse.data.split import split_by_content

__all__ = [
    "SOURCES",
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
    "LmdbConfig",
    "Loader",
    "LoaderConfig",
    "ParquetConfig",
    "PictureConfig",
    "RingsConfig",
    "SourceConfig",
    "StackedMnistConfig",
    "SwissrollConfig",
    "TarConfig",
    "ZipConfig",
    "contact_sheet",
    "describe",
    "load_dataset",
    "source_config_for",
    "split_by_content",
]

#: Where those lie that are no configuration.
_LAZY = {
    "Batch": "undiffuse.data.source",
    "Dataset": "undiffuse.data.source",
    "Loader": "undiffuse.data.loader",
    "LoaderConfig": "undiffuse.data.loading",
    "contact_sheet": "undiffuse.data.audit",
    "describe": "undiffuse.data.audit",
    "load_dataset": "undiffuse.data.source",
    "source_config_for": "undiffuse.data.spec",
    "split_by_content": "undiffuse.data.split",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY.get(name, "undiffuse.data.config")), name)
