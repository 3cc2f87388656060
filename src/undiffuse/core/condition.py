"""What a network may be told beside the noisy picture: optional tensors, one row a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from undiffuse.errors import UsageError


@dataclass(frozen=True)
class Condition:
    """Optional per-row inputs; every tensor given has the batch as its first axis.

    Args:
        class_label: (B,) int64 in [0, num_classes); -1 means "no class" (the unconditional label).
        tokens: (B, L) int64 or (B, L, D) float text tokens or features, with ``token_mask`` (B, L) bool.
        embedding: (B, D) a global embedding of a picture or a text.
        low_res: (B, C, H, W) the picture to be upscaled, with ``aug_level`` (B,), its noise level.
        augment_label: (B, A) what augmentation was done to the training picture.
        control: (B, C, H, W) edges, depth, ... in [-1, 1].
        until: (B,) the time s <= t that a mean velocity reaches to; none means t itself. It says what is asked, not
            what the picture shows, so it is never dropped.
        deep: (B, C, h, w) features of the network's inner levels from a step before, taken instead of its own.
    """

    class_label: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    embedding: Tensor | None = None
    low_res: Tensor | None = None
    aug_level: Tensor | None = None
    augment_label: Tensor | None = None
    control: Tensor | None = None
    until: Tensor | None = None
    deep: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """The condition with ``function`` applied to every tensor it holds."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(value) for name, value in given.items() if value is not None})

    def select(self, rows: Tensor | slice) -> Condition:
        """The rows with these indices (or this mask, or this slice)."""
        return self.map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return self.map(lambda value: value.to(device))

    def drop(self, mask: Tensor) -> Condition:
        """Make the rows where ``mask`` (B,) is true unconditional: label -1, zeros, nothing attended to."""

        def blank(value: Tensor) -> Tensor:
            rows = mask.reshape(-1, *([1] * (value.ndim - 1))).to(value.device)
            return torch.where(rows, torch.zeros((), dtype=value.dtype, device=value.device), value)

        dropped = replace(self.map(blank), until=self.until)
        if self.class_label is None:
            return dropped
        label = torch.where(mask.to(self.class_label.device), -1, self.class_label)
        return replace(dropped, class_label=label)

    def over(self, other: Condition | None) -> Condition:
        """``other`` with the fields that this one holds put in place of its own."""
        if other is None:
            return self
        held = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(other, **held)

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return all(getattr(self, f.name) is None for f in fields(self))

    @staticmethod
    def stack(parts: Sequence[Condition]) -> Condition:
        """Concatenate rows; all parts must hold the same fields."""
        merged: dict[str, Tensor] = {}
        for field in fields(Condition):
            values = [value for part in parts if (value := getattr(part, field.name)) is not None]
            if values and len(values) != len(parts):
                raise UsageError(f"cannot stack conditions: only some of them have {field.name!r}")
            if values:
                merged[field.name] = torch.cat(values)
        return Condition(**merged)
