"""The captions of a list of images, of which some may have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.storage.string_array import StringArray
from undiffuse.wording import count_noun


class CaptionColumn(NamedTuple):
    """Captions of N images.

    Attributes:
        captions: one text per image, empty if it has no caption; ``None`` if no image has one.
        notes: provenance, with the number of images without a caption.
    """

    captions: StringArray | None
    notes: dict[str, str]


def caption_column(texts: Sequence[str], numbers: npt.NDArray[np.integer[Any]]) -> CaptionColumn:
    """The captions of images that are given by their indices.

    An image without a caption has an empty text, which a model is trained on as on a dropped caption.

    Args:
        texts: captions.
        numbers: (N,) index of the caption of each image, -1 for none.
    """
    lacking = numbers < 0
    if lacking.all():
        return CaptionColumn(None, {})
    stored = StringArray.of(texts)
    if not lacking.any():
        return CaptionColumn(stored.select(numbers), {})
    stored = StringArray([*stored, ""])
    note = (
        f"{int(lacking.sum()):,} of {count_noun(len(numbers))} have no caption; a model is trained on them without one"
    )
    return CaptionColumn(stored.select(np.where(lacking, len(stored) - 1, numbers)), {"captions_missing": note})
