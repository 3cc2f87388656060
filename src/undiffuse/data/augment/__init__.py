"""Transformed training pictures: a pipeline with a probability for each transformation, and what GANs use.

Importing this package and its ``config`` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.data.augment.config import (
    AUGMENTATIONS,
    AugmentConfig,
    DocumentConfig,
    FlipConfig,
    KarrasConfig,
    NoAugmentConfig,
)
from undiffuse.registry import resolve

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
    "AdaptiveProbability": "undiffuse.data.augment.adaptive:AdaptiveProbability",
    "Augmentation": "undiffuse.data.augment.pipeline:Augmentation",
    "DiffAugment": "undiffuse.data.augment.differentiable:DiffAugment",
    "augmentation_sheet": "undiffuse.data.augment.sheet:augmentation_sheet",
    "sheet_columns": "undiffuse.data.augment.sheet:sheet_columns",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY[name])
