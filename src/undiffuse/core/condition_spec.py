"""What a model is conditioned on besides x_t and t, stated before any tensor exists. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from undiffuse.config import FrozenModel

#: What becomes of a field, or of one tensor of a mapping (``images.mask``), where a sample is made unconditional.
Drop = Literal["null", "keep"]


class ImageSpec(FrozenModel):
    """An image that a network is conditioned on.

    Args:
        channels: of the image.
        use: ``concat`` with the channels of x_t, or by a ``branch`` of its own.
    """

    channels: Annotated[int, Field(ge=1)]
    use: Literal["concat", "branch"] = "concat"


class TextSpec(FrozenModel):
    """The form in which a network receives a text.

    Args:
        tokens: the longest sequence.
        width: numbers per token; 0 where the network takes no tokens.
        pooled: numbers for the whole text; 0 where it takes none.
    """

    tokens: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=0)] = 0
    pooled: Annotated[int, Field(ge=0)] = 0


class ConditionSpec(FrozenModel):
    """The fields of ``Condition`` that a model knows.

    Args:
        class_names: of its labels; empty for a model without classes.
        text: None for a model without text.
        embedding_dim: of an image's global embedding; 0 for none.
        num_augment: numbers that describe how a training image was augmented; 0 for none.
        target_time: whether the network takes the time that a mean velocity reaches to.
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
        """Number of class labels; 0 for none."""
        return len(self.class_names)

    @classmethod
    def of_classes(cls, num_classes: int, **more: Any) -> ConditionSpec:
        """Classes that are called by their numbers.

        Args:
            num_classes: number of labels, named "0", "1", ...
            more: other fields of the specification.
        """
        return cls(class_names=tuple(map(str, range(num_classes))), **more)


#: An unconditional model.
UNCONDITIONAL = ConditionSpec()
