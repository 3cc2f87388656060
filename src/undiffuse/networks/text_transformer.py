"""Transformer blocks over a feature map with cross-attention to a text, as in latent diffusion."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core import operators
from undiffuse.networks.cross_attention import CrossAttention, QueryKeyNorm, TextContext, separate_initialization
from undiffuse.networks.layers import GroupNorm, linear, rescaled


class TextTransformer(nn.Module):
    """x + projection(blocks(projection(norm(x)))) over all pixels of a map; the last projection is zero-initialised.

    Args:
        channels: C, of input and output.
        context_channels: channels of the text tokens.
        heads: attention heads; divides C.
        norm: factory of the norm for a number of channels.
        depth: number of blocks.
        scale: factor of the sum of both branches.
        query_key_norm: normalise queries and keys per head.
        dropout: probability within the MLP, in [0, 1).
    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752,
        appendix E.2.1.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        norm: Callable[[int], GroupNorm],
        *,
        depth: int = 1,
        scale: float = 1.0,
        query_key_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale, self.norm = scale, norm(channels)
        with separate_initialization():
            self.first = linear(channels, channels)
            self.blocks = nn.ModuleList(
                TextBlock(channels, context_channels, heads, query_key_norm=query_key_norm, dropout=dropout)
                for _ in range(depth)
            )
            self.last = linear(channels, channels, zero=True)

    def forward(self, x: Tensor, context: TextContext) -> Tensor:
        """The output, (B, C, H, W).

        Args:
            x: (B, C, H, W).
            context: tokens of the text and their mask.
        """
        tokens = self.first(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, context)
        return rescaled(x + self.last(tokens).transpose(1, 2).reshape(x.shape), self.scale)


class TextBlock(nn.Module):
    """Self-attention, cross-attention to the text and a gated MLP, each after a layer norm and with a shortcut.

    Queries, keys and values have no bias.

    Args:
        channels: C.
        context_channels: channels of the text tokens.
        heads: attention heads; divides C.
        query_key_norm: normalise queries and keys per head.
        dropout: probability within the MLP, in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        *,
        query_key_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.qkv, self.out = nn.Linear(channels, 3 * channels, bias=False), linear(channels, channels)
        self.norms = QueryKeyNorm(channels // heads) if query_key_norm else None
        self.cross = CrossAttention(channels, context_channels, heads, query_key_norm=query_key_norm, bias=False)
        self.mlp = GatedMLP(channels, 4 * channels, dropout)

    def forward(self, tokens: Tensor, context: TextContext) -> Tensor:
        """The updated tokens, (B, L, C).

        Args:
            tokens: (B, L, C).
            context: tokens of the text and their mask.
        """
        tokens = tokens + self._attended(self.norm1(tokens))
        tokens = tokens + self.cross(self.norm2(tokens), context)
        out: Tensor = tokens + self.mlp(self.norm3(tokens))
        return out

    def _attended(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.norms is not None:
            query, key = self.norms(query, key)
        out: Tensor = self.out(operators.attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class GatedMLP(nn.Module):
    """linear(dropout(a GELU(b))), where a and b are the halves of linear(tokens) (GEGLU).

    Args:
        channels: C, of input and output.
        hidden: width of a and b.
        dropout: probability, in [0, 1).
    Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = linear(channels, 2 * hidden), linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """The output, (B, L, C).

        Args:
            tokens: (B, L, C).
        """
        value, gate = self.first(tokens).chunk(2, dim=2)
        out: Tensor = self.second(self.dropout(value * F.gelu(gate)))
        return out
