"""Settings of a prepared set: filters, duplicates and error handling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from undiffuse.config import FrozenModel


class Filters(FrozenModel):
    """Image filters; rejected images are skipped and counted.

    Args:
        min_side: minimum shorter side of the original image, in pixels; 0 disables it.
        max_aspect: maximum ratio of the longer side to the shorter; 0 disables it.
        min_contrast: minimum standard deviation of the levels 0..255 of the prepared image, to reject blank images; 0
            disables it.
    """

    min_side: int = Field(default=0, ge=0)
    max_aspect: float = Field(default=0, ge=0)
    min_contrast: float = Field(default=0, ge=0, le=128)


class PrepareSettings(FrozenModel):
    """Settings of ``prepare``.

    Args:
        filters: image filters.
        duplicates: ``drop`` keeps only the first of images with identical pixels after preparation; ``keep`` keeps all.
        on_error: an image that cannot be read or is too small raises an error (``fail``) or is skipped (``skip``).
    """

    filters: Filters = Filters()
    duplicates: Literal["drop", "keep"] = "drop"
    on_error: Literal["fail", "skip"] = "fail"
