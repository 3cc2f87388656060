"""What a model is told beside the noisy sample, stated before any tensor is there. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from undiffuse.config import FrozenModel

#: What becomes of a field, or of one tensor of a mapping (``images.mask``), where a row is made unconditional.
Drop = Literal["null", "keep"]


class ImageSpec(FrozenModel):
    """An image that a network is told.

    Args:
        channels: of it.
        use: ``concat`` beside the channels of x_t, or by a ``branch`` of its own.
    """

    channels: Annotated[int, Field(ge=1)]
    use: Literal["concat", "branch"] = "concat"


class TextSpec(FrozenModel):
    """What a text becomes before a network is told it.

    Args:
        tokens: most of them.
        width: numbers of each; 0 where the network is told none.
        pooled: numbers for the whole text; 0 where it is told none.
    """

    tokens: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=0)] = 0
    pooled: Annotated[int, Field(ge=0)] = 0


class ConditionSpec(FrozenModel):
    """The fields of ``Condition`` that a model knows.

    Args:
        class_names: of its labels; empty where it is told none.
        text: None where it is told none.
        embedding_dim: of an image's global embedding; 0 where it is told none.
        num_augment: numbers that say how a training image was transformed; 0 where it is told none.
        target_time: whether a solver tells it the time that a mean velocity reaches to.
        images: by name: ``low_res``, ``control``, ``mask``, ...
        drop: what guidance does to each field, where this model differs from ``core.condition.DROP``.
    """

    class_names: tuple[str, ...] = ()
    text: TextSpec | None = None
    embedding_dim: Annotated[int, Field(ge=0)] = 0
    num_augment: Annotated[int, Field(ge=0)] = 0
    target_time: bool = False
    images: Mapping[str, ImageSpec] = {}
    drop: Mapping[str, Drop] = {}

    @property
    def num_classes(self) -> int:
        """Labels that it is told; 0 for none."""
        return len(self.class_names)

    @classmethod
    def of_classes(cls, num_classes: int, **more: Any) -> ConditionSpec:
        """Classes that are called by their numbers."""
        return cls(class_names=tuple(map(str, range(num_classes))), **more)


#: A model that is told nothing.
UNCONDITIONAL = ConditionSpec()
