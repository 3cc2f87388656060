"""Per-item conditioning information of a batch: labels, augmentation parameters, captions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undiffuse.core.per_sample import PerRow, PerSample


@dataclass(frozen=True)
class Given(PerSample):
    """Tensors and texts, one per item; ``None`` if the data set does not have them.

    Args:
        label: (B,) int64 class indices.
        augment: (B, A) parameters of the augmentation applied to each training image.
        captions: one text per item.
    """

    label: Tensor | None = None
    augment: Tensor | None = None
    captions: PerRow[str] | None = None
