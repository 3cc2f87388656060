"""A text encoder trained jointly with the image network, on a vocabulary made from the training captions.

Source: Nichol et al. 2022, "GLIDE", arXiv:2112.10741, sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.conditioning.text.encoder import TextEncoder, TokenizedText, Tokens
from undiffuse.conditioning.text.layers import EMBEDDING_STD, TextTransformer
from undiffuse.conditioning.text.vocabulary import START, build_vocabulary
from undiffuse.errors import UsageError


class LearnedTextEncoder(TextEncoder):
    """See ``LearnedTextConfig``.

    Args:
        config: the configuration, with its vocabulary and length.
    Raises:
        UsageError: the vocabulary is not set.
    """

    def __init__(self, config: LearnedTextConfig) -> None:
        if not config.resolved:
            raise UsageError("the text encoder has no vocabulary; it is made from the captions when training starts")
        super().__init__(config)
        self.vocabulary = build_vocabulary(config.vocabulary, config.entries)
        self.embedding = nn.Embedding(self.vocabulary.size, config.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.transformer = TextTransformer(self.length, config.width, config.num_layers, config.num_heads)

    def tokenize(self, text: str) -> TokenizedText:
        ids, spans = self.vocabulary.encode(text)
        kept = self.length - 1
        truncated = text[spans[kept][0] :] if len(ids) > kept else ""
        unknown = tuple(self.vocabulary.unknown(text))
        return TokenizedText((START, *ids[:kept]), ((0, 0), *spans[:kept]), truncated, unknown)

    def token_features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.batch([self.tokenize(text) for text in texts])
        return self(tokens), tokens.mask

    def forward(self, tokens: Tokens) -> Tensor:
        """Features (B, L, D) of tokens, each text with at least one valid token."""
        # autocast would make the features depend on the device's defaults; the encoder is small
        with torch.autocast(tokens.ids.device.type, enabled=False):
            features: Tensor = self.transformer(self.embedding(tokens.ids), tokens.mask)
        return features
