"""The kind and shape of data: images, latents or points. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from undiffuse.config import FrozenModel
from undiffuse.errors import UsageError

#: The value range of images in computations, and the number of equally spaced levels in image files.
IMAGE_RANGE, IMAGE_LEVELS = (-1.0, 1.0), 256


class Space(FrozenModel):
    """The space of data, samples or the output of a stage.

    Args:
        kind: ``image``, ``latent`` (output of an encoder) or ``points``.
        shape: shape of one sample: (C, H, W), or (D,) for points.
        value_range: smallest and largest value of the data, to which predictions of x_0 are clipped; None if unbounded.
        levels: number of evenly spaced values over ``value_range`` that the data take: the decoder of the variational
            bound integrates over one level; None for continuous data.
    """

    kind: Literal["image", "latent", "points"]
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=3)]
    value_range: tuple[float, float] | None = None
    levels: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        axes, expected = len(self.shape), 1 if self.kind == "points" else 3
        if axes != expected:
            wanted = "(D,)" if self.kind == "points" else "(C, H, W)"
            raise UsageError(f"{self.kind} has a shape {wanted}, got {self.shape}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UsageError(f"value_range must be (low, high) with low < high, got {self.value_range}")
        if self.levels is not None and self.value_range is None:
            raise UsageError(f"{self.levels} levels need the value_range that they are spread over")
        return self

    @classmethod
    def of_data(cls, shape: Sequence[int]) -> Space:
        """The space of a data source: images (C, H, W) of 256 levels in [-1, 1], or points (D,).

        Example:
            >>> Space.of_data((3, 32, 32)).kind, Space.of_data((2,)).kind
            ('image', 'points')
        """
        shape = tuple(int(side) for side in shape)
        if len(shape) == 3:
            return cls(kind="image", shape=shape, value_range=IMAGE_RANGE, levels=IMAGE_LEVELS)
        return cls(kind="points", shape=shape)

    @classmethod
    def latent(cls, shape: Sequence[int]) -> Space:
        """The space of unbounded latents (C, H, W)."""
        return cls(kind="latent", shape=tuple(shape))

    @property
    def is_image(self) -> bool:
        """Whether samples are saved and shown as images."""
        return self.kind == "image"

    @property
    def is_spatial(self) -> bool:
        """Whether samples have channels, a height and a width, as convolutions need."""
        return self.kind != "points"
