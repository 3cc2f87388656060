"""What a network is conditioned on besides x_t and t: the user's ``Condition``, and the solver's ``Evaluation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from undiffuse.core.per_sample import PerSample

#: Whether a field, or one tensor of a mapping (``images.mask``), is nulled or kept in an unconditional sample.
DropPolicy: TypeAlias = Mapping[str, Literal["null", "keep"]]

#: Classes, texts and embeddings are dropped. Conditioning images, their noise levels and the augmentation of a training
#: image describe the sample itself: zeros would be a different condition, so guidance and training keep them.
DROP: DropPolicy = MappingProxyType(
    {
        **dict.fromkeys(("label", "tokens", "token_mask", "pooled", "embedding"), "null"),
        **dict.fromkeys(("augment", "images", "levels"), "keep"),
    }
)


@dataclass(frozen=True)
class Condition(PerSample):
    """Optional inputs of a network, one entry per sample.

    Args:
        label: (B,) int64 in [0, num_classes); -1 means "no class" (the unconditional label).
        tokens: (B, L) int64 or (B, L, D) float text tokens or features, with ``token_mask`` (B, L) bool.
        pooled: (B, D) a text encoder's pooled embedding of the whole text.
        embedding: (B, D) a global embedding of an image.
        augment: (B, A) parameters of the augmentation that was applied to the training image.
        images: (B, C, H, W) each, by name: ``low_res`` to be upscaled, ``control``, ``mask``, ...
        levels: (B,) each, by name: the log-SNR or scale of the image with the same name.
    """

    label: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    pooled: Tensor | None = None
    embedding: Tensor | None = None
    augment: Tensor | None = None
    images: Mapping[str, Tensor] = field(default_factory=dict)
    levels: Mapping[str, Tensor] = field(default_factory=dict)

    def drop(self, mask: Tensor, policy: DropPolicy = DROP) -> Condition:
        """Make the samples where ``mask`` is true unconditional: label -1, zeros, all tokens masked.

        Args:
            mask: (B,) bool, true where the condition is dropped.
            policy: whether each field is dropped or kept; an entry for one tensor of a mapping overrides the entry of
                the mapping, and a field without an entry is dropped.
        """

        def drop_tensor(name: str, value: Tensor) -> Tensor:
            if policy.get(name, policy.get(name.partition(".")[0], "null")) == "keep":
                return value
            rows = mask.reshape(-1, *([1] * (value.ndim - 1))).to(value.device)
            null = torch.tensor(-1 if name == "label" else 0, dtype=value.dtype, device=value.device)
            return torch.where(rows, null, value)

        return self.map_named(drop_tensor)


@dataclass(frozen=True)
class Evaluation(PerSample):
    """Solver inputs of one network evaluation, such as the target time; not set by users.

    Args:
        target_time: (B,) the end time s <= t of a mean velocity; None means t itself.
        cached_features: (B, C, h, w) features of the network's inner levels from an earlier step, reused instead of
            being recomputed.
    """

    target_time: Tensor | None = None
    cached_features: Tensor | None = None
