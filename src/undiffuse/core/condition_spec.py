"""Specification of what a model is conditioned on besides x_t and t. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from undiffuse.config import FrozenModel

#: Whether a field, or one tensor of a mapping (``images.mask``), is nulled or kept in an unconditional sample.
Drop = Literal["null", "keep"]


class ImageSpec(FrozenModel):
    """An image that a network is conditioned on.

    Args:
        channels: number of channels of the image.
        use: ``concat`` with the channels of x_t, or encode in a separate ``branch``.
    """

    channels: Annotated[int, Field(ge=1)]
    use: Literal["concat", "branch"] = "concat"


class TextSpec(FrozenModel):
    """The form in which a network receives a text.

    Args:
        tokens: maximum sequence length.
        width: features per token; 0 if the network takes no token features.
        pooled: features of the pooled text embedding; 0 if the network takes none.
    """

    tokens: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=0)] = 0
    pooled: Annotated[int, Field(ge=0)] = 0


class ConditionSpec(FrozenModel):
    """The fields of ``Condition`` that a model uses.

    Args:
        class_names: names of the labels; empty for a model without classes.
        text: text input; None for a model without text.
        embedding_dim: size of an image's global embedding; 0 for none.
        num_augment: number of augmentation parameters of a training image; 0 for none.
        target_time: whether the network takes the end time of a mean velocity.
        images: conditioning images by name: ``low_res``, ``control``, ``mask``, ...
        drop: drop policy of this model's fields, where it differs from ``core.condition.DROP``.
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
        """A specification whose classes are named by their numbers.

        Args:
            num_classes: number of labels, named "0", "1", ...
            more: other fields of the specification.
        """
        return cls(class_names=tuple(map(str, range(num_classes))), **more)


#: An unconditional model.
UNCONDITIONAL = ConditionSpec()
