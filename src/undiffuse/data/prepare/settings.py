"""What is left out of a prepared set, and what is done about damage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from undiffuse.config import FrozenModel


class Filters(FrozenModel):
    """Which images are wanted; the others are left out and counted.

    Args:
        min_side: the least shorter side, in pixels, of the image as found; 0 wants all.
        max_aspect: the largest ratio of the longer side to the shorter; 0 wants all.
        min_contrast: the least standard deviation of the levels 0..255 of the image as prepared, which leaves out
            blank ones; 0 wants all.
    """

    min_side: int = Field(default=0, ge=0)
    max_aspect: float = Field(default=0, ge=0)
    min_contrast: float = Field(default=0, ge=0, le=128)


class PrepareSettings(FrozenModel):
    """What to leave out and what to do about damage.

    Args:
        filters: which images are wanted.
        duplicates: ``drop`` keeps the first of images that are the same in every pixel once prepared; ``keep`` all.
        on_error: an image that cannot be read, or is too small, stops the work (``fail``) or is left out (``skip``).
    """

    filters: Filters = Filters()
    duplicates: Literal["drop", "keep"] = "drop"
    on_error: Literal["fail", "skip"] = "fail"
