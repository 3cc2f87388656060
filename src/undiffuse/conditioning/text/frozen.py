"""A frozen text encoder from elsewhere, followed by trained layers.

Source: Saharia et al. 2022, "Imagen", arXiv:2205.11487, sec. 2.1 (a frozen language model).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from undiffuse.conditioning.text.config import FrozenTextConfig
from undiffuse.conditioning.text.encoder import TextEncoder, TokenizedText
from undiffuse.conditioning.text.frozen_features import FrozenFeatures
from undiffuse.conditioning.text.layers import TextTransformer
from undiffuse.errors import UsageError


class FrozenTextEncoder(TextEncoder):
    """See ``FrozenTextConfig``.

    Args:
        config: the configuration, with the length, width and SHA-256 of the encoder.
    Raises:
        UsageError: one of them is not set.
    """

    part = FrozenTextConfig.part

    def __init__(self, config: FrozenTextConfig) -> None:
        if not config.resolved:
            raise UsageError("the text encoder has no length and SHA-256; they are set when training starts")
        super().__init__(config)
        self.frozen = FrozenFeatures(config)
        self.norm = nn.LayerNorm(self.frozen.width)
        self.project = nn.Linear(self.frozen.width, config.width)
        self.transformer = TextTransformer(self.length, config.width, config.num_layers, config.num_heads)

    def locate(self, base: Path | None) -> None:
        self.frozen.locate(base)

    def files(self) -> list[Path]:
        folder = self.frozen.folder
        return [folder.path / name for name in folder.files]

    def tokenize(self, text: str) -> TokenizedText:
        return self.frozen.tokenize(text)

    def prepare(self, texts: Iterable[str], most: int) -> int:
        return self.frozen.prepare(texts, most, self.device)

    def token_features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        features, mask = self.frozen.features(texts, self.device)
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.transformer(self.project(self.norm(features)), mask)
        return out, mask
