"""What a data set says of the items of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undiffuse.core.per_sample import PerRow, PerSample


@dataclass(frozen=True)
class Given(PerSample):
    """Tensors and texts, one per item; absent is what the set does not say.

    Args:
        label: (B,) int64, the number of its class.
        augment: (B, A) how the training image was transformed.
        captions: one text per item.
    """

    label: Tensor | None = None
    augment: Tensor | None = None
    captions: PerRow[str] | None = None
