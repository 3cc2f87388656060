"""Joint attention of image and text tokens with separate weights for both (MMDiT).

Source: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", arXiv:2403.03206,
fig. 2b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.core.operators import attention
from undiffuse.networks.config import TransformerConfig
from undiffuse.networks.cross_attention import QueryKeyNorm, TextContext
from undiffuse.networks.layers import linear
from undiffuse.networks.modulation import glorot, modulated


class JointBlocks(nn.Module):
    """All blocks of the transformer; without text, each block is an adaLN-Zero block of the image alone.

    Args:
        config: configuration of the transformer.
        context_channels: channels of the text tokens; 0 for a network without text.
    """

    def __init__(self, config: TransformerConfig, context_channels: int) -> None:
        super().__init__()
        self.project = glorot(linear(context_channels, config.channels)) if context_channels else None
        last, text = config.num_blocks - 1, bool(context_channels)
        self.blocks = nn.ModuleList(
            JointBlock(config, text=text, ends_text=number == last) for number in range(config.num_blocks)
        )

    def forward(self, tokens: Tensor, embedding: Tensor, context: TextContext | None) -> Tensor:
        """The image tokens after all blocks, (B, L, D).

        Args:
            tokens: (B, L, D) of the image.
            embedding: (B, D), projected to scale, shift and gate of both streams.
            context: tokens of the text and their mask; None for a network without text.
        """
        text = mask = None
        if context is not None and self.project is not None:
            text = self.project(context.tokens).to(tokens.dtype)
            mask = torch.cat([context.mask.new_ones(tokens.shape[:2]), context.mask], dim=1)
        for block in self.blocks:
            tokens, text = block(tokens, text, embedding, mask)
        return tokens


class JointBlock(nn.Module):
    """One block: attention over image and text tokens together, then an MLP for each.

    Args:
        config: configuration of the transformer.
        text: whether the network has text.
        ends_text: the last block, which does not update the text tokens.
    """

    def __init__(self, config: TransformerConfig, *, text: bool = True, ends_text: bool = False) -> None:
        super().__init__()
        self.image = _Stream(config)
        self.text = _Stream(config, ends=ends_text) if text else None

    def forward(
        self, tokens: Tensor, text: Tensor | None, embedding: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The updated image and text tokens, (B, L, D) and (B, S, D); no text tokens after the last block.

        Args:
            tokens: (B, L, D) of the image.
            text: (B, S, D); None without text.
            embedding: (B, D), projected to scale, shift and gate of both streams.
            mask: (B, L + S) bool, true for valid tokens; None for all.
        """
        image_gates, image_heads = self.image.start(tokens, embedding)
        if text is None or self.text is None:
            return self.image.end(tokens, attention(*image_heads), image_gates), None
        text_gates, text_heads = self.text.start(text, embedding)
        joined = [torch.cat(pair, dim=2) for pair in zip(image_heads, text_heads, strict=True)]
        mixed = attention(joined[0], joined[1], joined[2], mask)
        length = tokens.shape[1]
        tokens = self.image.end(tokens, mixed[:, :, :length], image_gates)
        return tokens, None if self.text.mlp is None else self.text.end(text, mixed[:, :, length:], text_gates)


class _Stream(nn.Module):
    """Weights of one kind of tokens: adaLN-Zero, query, key and value, output projection and MLP.

    Args:
        config: configuration of the transformer.
        ends: only queries, keys and values are needed, since the tokens are not updated.
    """

    def __init__(self, config: TransformerConfig, *, ends: bool = False) -> None:
        super().__init__()
        width, hidden = config.channels, round(config.mlp_ratio * config.channels)
        self.heads, self.eps = config.num_heads, config.norm_eps
        self.embed = linear(width, (2 if ends else 6) * width, zero=True)
        self.qkv = glorot(linear(width, 3 * width))
        self.norms = QueryKeyNorm(width // config.num_heads) if config.query_key_norm else None
        self.out = None if ends else glorot(linear(width, width))
        dropout = nn.Dropout(config.dropout)
        layers = glorot(linear(width, hidden)), nn.GELU("tanh"), dropout, glorot(linear(hidden, width))
        self.mlp = None if ends else nn.Sequential(*layers)

    def start(self, tokens: Tensor, embedding: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor, Tensor]]:
        """The modulation of the rest of the block, and query, key and value (B, heads, L, D / heads)."""
        shift, scale, *rest = self.embed(embedding)[:, None].chunk(2 if self.out is None else 6, dim=2)
        qkv = self.qkv(modulated(tokens, scale, shift, self.eps)).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.norms is not None:
            query, key = self.norms(query, key)
        return tuple(rest), (query, key, value)

    def end(self, tokens: Tensor, mixed: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """The tokens after attention and MLP."""
        assert self.out is not None and self.mlp is not None
        gate1, shift2, scale2, gate2 = modulation
        tokens = tokens + gate1 * self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = tokens + gate2 * self.mlp(modulated(tokens, scale2, shift2, self.eps))
        return out
