"""Transformed training pictures: a pipeline with a probability for each transformation, and what GANs use.

Importing this package and its ``config`` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from undiffuse.data.augment.config import (
    AUGMENTATIONS,
    AugmentConfig,
    DocumentConfig,
    FlipConfig,
    KarrasConfig,
    NoAugmentConfig,
)

if TYPE_CHECKING:
    from undiffuse.data.augment.adaptive import AdaptiveProbability
    from undiffuse.data.augment.differentiable import DiffAugment
    from undiffuse.data.augment.pipeline import Augmentation
    from undiffuse.data.augment.sheet import augmentation_sheet, sheet_columns

__all__ = [
    "AUGMENTATIONS",
    "AdaptiveProbability",
    "AugmentConfig",
    "Augmentation",
    "DiffAugment",
    "DocumentConfig",
    "FlipConfig",
    "KarrasConfig",
    "NoAugmentConfig",
    "augmentation_sheet",
    "sheet_columns",
]

_LAZY = {
    "AdaptiveProbability": "adaptive",
    "Augmentation": "pipeline",
    "DiffAugment": "differentiable",
    "augmentation_sheet": "sheet",
    "sheet_columns": "sheet",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
