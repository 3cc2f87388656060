"""Data augmentation: a pipeline with a probability for each transformation, and DiffAugment and ADA for GANs.

Importing this package and its ``config`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.augment.config import (
    AUGMENTATIONS,
    AugmentConfig,
    DocumentConfig,
    FlipConfig,
    KarrasConfig,
    NoAugmentConfig,
)
from undiffuse.registry import resolve

if TYPE_CHECKING:
    from undiffuse.augment.adaptive import AdaptiveProbability
    from undiffuse.augment.differentiable import DiffAugment
    from undiffuse.augment.grid import GRID_ROWS, augmentation_grid, grid_columns
    from undiffuse.augment.pipeline import Augmentation

__all__ = [
    "AUGMENTATIONS",
    "GRID_ROWS",
    "AdaptiveProbability",
    "AugmentConfig",
    "Augmentation",
    "DiffAugment",
    "DocumentConfig",
    "FlipConfig",
    "KarrasConfig",
    "NoAugmentConfig",
    "augmentation_grid",
    "grid_columns",
]

_LAZY = {
    "AdaptiveProbability": "undiffuse.augment.adaptive:AdaptiveProbability",
    "Augmentation": "undiffuse.augment.pipeline:Augmentation",
    "DiffAugment": "undiffuse.augment.differentiable:DiffAugment",
    "GRID_ROWS": "undiffuse.augment.grid:GRID_ROWS",
    "augmentation_grid": "undiffuse.augment.grid:augmentation_grid",
    "grid_columns": "undiffuse.augment.grid:grid_columns",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY[name])
