"""Transformer layers of text encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core import operators

#: Standard deviation of initial word and position embeddings. Positions that start much smaller than the words leave
#: the encoder a bag of words: colours and shapes are learned, their order is not.
EMBEDDING_STD = 0.3


class TextTransformer(nn.Module):
    """Positions, pre-norm transformer layers and a final norm, (B, L, D) -> (B, L, D).

    Args:
        length: L.
        width: D.
        num_layers: layers of attention and MLP.
        num_heads: attention heads; divides D.
    """

    def __init__(self, length: int, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(EMBEDDING_STD * torch.randn(length, width))
        self.layers = nn.ModuleList(TextLayer(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The features of the tokens.

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, true for valid tokens, at least one per text.
        """
        tokens = tokens + self.positions
        for layer in self.layers:
            tokens = layer(tokens, mask)
        out: Tensor = self.norm(tokens)
        return out


class TextLayer(nn.Module):
    """tokens + attention(norm(tokens)), then the same with a GELU MLP of four times the width.

    Args:
        width: D.
        num_heads: attention heads; divides D.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The layer's output, (B, L, D).

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, true for valid tokens.
        """
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = operators.attention(query, key, value, mask)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = tokens + self.second(F.gelu(self.first(self.norm2(tokens))))
        return out
