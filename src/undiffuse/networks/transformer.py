"""A transformer over patches of the image, conditioned by adaptive norms (DiT) or by tokens (U-ViT).

Tokens are (B, L, D), one per patch in row-major order, after the conditioning tokens, if any. Every block starts as the
identity: its gates or last layers are zero-initialised. Positions are not learned, so the weights apply to any image
size. A text is attended to by cross-attention (DiT, as in PixArt), as further tokens (U-ViT), or jointly with the image
(MMDiT, see ``joint``).

Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", arXiv:2212.09748; Bao et al. 2023, "All are
Worth Words", arXiv:2209.12152; Chen et al. 2023, "PixArt-alpha", arXiv:2310.00426, sec. 2.3, for cross-attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.operators import attention
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.networks.config import TransformerConfig
from undiffuse.networks.cross_attention import CrossAttention, QueryKeyNorm, TextContext, TextInput
from undiffuse.networks.joint import JointBlocks
from undiffuse.networks.layers import Embedding, conv, fold, linear, unfold
from undiffuse.networks.modulation import AdaptiveNorm, PlainNorm, glorot, last_layer, modulated
from undiffuse.networks.spec import NetworkSpec


class Transformer(nn.Module):
    """See ``TransformerConfig``.

    Args:
        config: the configuration.
        spec: shape and conditions; images (C, H, W) of any size. The weights also apply to other image sizes.
    Raises:
        UsageError: a shape that is not that of an image.
    """

    def __init__(
        self,
        config: TransformerConfig,
        spec: NetworkSpec,
    ) -> None:
        super().__init__()
        shape, output_factor = spec.shape, spec.output_factor
        if not Space.of_data(shape).is_spatial:
            raise UsageError(
                f"network 'transformer' takes images (C, H, W), got examples of shape {shape}; use network 'mlp'"
            )
        width, pixels, out_channels = config.channels, config.patch_size**2, output_factor * shape[0]
        self.patch_size, self.by_tokens = config.patch_size, config.conditioning == "tokens"
        text = spec.condition.text if spec.condition.text is not None and spec.condition.text.width else None
        self.text = TextInput(text) if text is not None else None
        context_channels = text.width if text is not None else 0
        self.embedding = Embedding(config, config.time_channels, width, spec.condition)
        self.stem = glorot(linear(shape[0] * pixels, width))
        self.joint = JointBlocks(config, context_channels) if config.conditioning == "joint" else None
        num_blocks = 0 if self.joint is not None else config.num_blocks
        self.blocks = nn.ModuleList(_block(config, context_channels) for _ in range(num_blocks))
        self.text_tokens = linear(context_channels, width) if self.by_tokens and text is not None else None
        self.skips = nn.ModuleList(_LongSkip(width) for _ in range(config.num_blocks // 2 if config.long_skips else 0))
        self.norm = PlainNorm(width, config.norm_eps) if self.by_tokens else AdaptiveNorm(width, config.norm_eps)
        if output_factor:
            self.head = linear(width, out_channels * pixels, zero=True)
            self.smooth = _zero_bias(conv(out_channels, out_channels)) if config.output_convolution else None

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition, evaluation: Evaluation = Evaluation()) -> Tensor:  # noqa: B008
        """F(x, c_noise, cond), (B, output_factor * C, H, W).

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
            evaluation: solver inputs: a target time.
        """
        height, width = x.shape[-2:]
        tokens, embedding, grid = self._tokens(x, c_noise, cond, evaluation)
        return self._output(tokens, embedding, grid)[:, :, :height, :width]

    def features(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """Mean over the normalised tokens of the patches, (B, num_features), for classifiers.

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
        """
        tokens, embedding, grid = self._tokens(x, c_noise, cond, Evaluation())
        with torch.autocast(tokens.device.type, enabled=False):
            dtype = self.stem.weight.dtype
            normed: Tensor = self.norm(tokens[:, -grid[0] * grid[1] :].to(dtype), embedding.to(dtype))
            return normed.mean(1)

    @property
    def num_features(self) -> int:
        """Size of ``features``."""
        return self.stem.out_features

    def _tokens(
        self, x: Tensor, c_noise: Tensor, cond: Condition, evaluation: Evaluation
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The tokens after all blocks, the embedding (B, D), and the height and width of the grid of patches."""
        patches = fold(x, self.patch_size)  # (B, C p^2, h, w)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = self.stem(patches.flatten(2).transpose(1, 2))
        tokens = tokens + sincos_positions(*grid, tokens.shape[-1], tokens)
        context = None if self.text is None else self.text(cond, x)
        if self.by_tokens:
            tokens, context, embedding = self._by_tokens(tokens, context, c_noise, cond, evaluation)
        else:
            embedding = self.embedding(c_noise, cond, evaluation)
        return self._run_blocks(tokens, embedding, context), embedding, grid

    def _by_tokens(
        self, tokens: Tensor, context: TextContext | None, c_noise: Tensor, cond: Condition, evaluation: Evaluation
    ) -> tuple[Tensor, TextContext | None, Tensor]:
        """The tokens preceded by those of the text, of time and of class; their mask; and the embedding (B, D)."""
        time, given = self.embedding.parts(c_noise, cond, evaluation)
        others = [part[:, None].to(tokens.dtype) for part in (time, given) if part is not None] + [tokens]
        if context is None or self.text_tokens is None:
            return torch.cat(others, dim=1), None, time
        tokens = torch.cat([self.text_tokens(context.tokens).to(tokens.dtype), *others], dim=1)
        valid = context.mask.new_ones(len(tokens), tokens.shape[1] - context.mask.shape[1])
        return tokens, TextContext(tokens, torch.cat([context.mask, valid], dim=1)), time

    def _run_blocks(self, tokens: Tensor, embedding: Tensor, context: TextContext | None) -> Tensor:
        """Apply all blocks, with long skips from the first to the second half, outermost to outermost."""
        if self.joint is not None:
            mixed: Tensor = self.joint(tokens, embedding, context)
            return mixed
        outputs: list[Tensor] = []
        first_skip = len(self.blocks) - len(self.skips)
        for index, block in enumerate(self.blocks):
            if index >= first_skip:
                tokens = self.skips[index - first_skip](tokens, outputs.pop())
            tokens = block(tokens, embedding, context)
            if index < len(self.skips):
                outputs.append(tokens)
        return tokens

    def _output(self, tokens: Tensor, embedding: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens (B, L, D) to the image; the output is not rounded to bfloat16."""
        with torch.autocast(tokens.device.type, enabled=False):
            dtype = self.head.weight.dtype
            patches = self.head(self.norm(tokens[:, -grid[0] * grid[1] :].to(dtype), embedding.to(dtype)))
            image = unfold(patches.transpose(1, 2).unflatten(2, grid), self.patch_size)
            return image if self.smooth is None else self.smooth(image)


def sincos_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Fixed sinusoidal positions of a grid of patches, ``(height * width, channels)``.

    The first half of the channels are sines, then cosines of the column, the second half those of the row, at
    channels / 4 frequencies from 1 down to 1 / 10,000 exclusive; padded with zeros if 4 does not divide ``channels``.

    Args:
        height: patches in a column.
        width: patches in a row.
        channels: channels of a token.
        like: any tensor with the dtype and device of the result.
    Source: Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5, over two axes as in DiT.
    """
    columns, rows = (_sincos(count, channels // 4, like.device) for count in (width, height))
    table = torch.cat(
        [columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=2
    )  # (height, width, 4 (channels // 4))
    return F.pad(table.flatten(0, 1), (0, channels % 4)).to(like.dtype)


def _sincos(count: int, num_frequencies: int, device: torch.device) -> Tensor:
    """(count, 2 num_frequencies), float32."""
    index = torch.arange(num_frequencies, dtype=torch.float64, device=device)
    frequencies = torch.exp(-math.log(10_000) * index / max(num_frequencies, 1))
    angle = torch.arange(count, dtype=torch.float64, device=device)[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class _Attention(nn.Module):
    """Self-attention over tokens, (B, L, D) -> (B, L, D)."""

    def __init__(self, config: TransformerConfig, *, zero: bool) -> None:
        super().__init__()
        channels, self.heads = config.channels, config.num_heads
        self.qkv, self.out = glorot(linear(channels, 3 * channels)), last_layer(channels, channels, zero=zero)
        self.norms = QueryKeyNorm(channels // self.heads) if config.query_key_norm else None

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, channels = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, L, D / heads) each
        if self.norms is not None:
            query, key = self.norms(query, key)
        mixed = attention(query, key, value, mask).transpose(1, 2).reshape(tokens.shape)
        out: Tensor = self.out(mixed)
        return out


class _MLP(nn.Module):
    """linear(dropout(GELU(linear(tokens)))), with the tanh approximation of GELU."""

    def __init__(self, channels: int, hidden: int, dropout: float, *, zero: bool) -> None:
        super().__init__()
        self.first, self.second = glorot(linear(channels, hidden)), last_layer(hidden, channels, zero=zero)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.second(self.dropout(F.gelu(self.first(tokens), approximate="tanh")))
        return out


class AdaptiveBlock(nn.Module):
    """adaLN-Zero: scale, shift and gate of both branches come from the embedding; all gates start at 0.

    tokens + gate attention(norm(tokens) (1 + scale) + shift), then cross-attention to the text in a network with text,
    then the MLP like the attention.

    Args:
        config: configuration of the transformer.
        context_channels: channels of the text tokens; 0 for a network without text.
    """

    def __init__(self, config: TransformerConfig, context_channels: int = 0) -> None:
        super().__init__()
        width, hidden = config.channels, round(config.mlp_ratio * config.channels)
        self.eps = config.norm_eps
        self.embed = linear(width, 6 * width, zero=True)
        self.attention = _Attention(config, zero=False)
        self.mlp = _MLP(width, hidden, config.dropout, zero=False)
        norm, heads = config.query_key_norm, config.num_heads
        self.cross = CrossAttention(width, context_channels, heads, query_key_norm=norm) if context_channels else None

    def forward(self, tokens: Tensor, embedding: Tensor, context: TextContext | None = None) -> Tensor:
        """The block's output, (B, L, D).

        Args:
            tokens: (B, L, D).
            embedding: (B, D), projected to scale, shift and gate.
            context: tokens of the text and their mask, in a network with text.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.embed(embedding)[:, None].chunk(6, dim=2)
        tokens = tokens + gate1 * self.attention(modulated(tokens, scale1, shift1, self.eps))
        if self.cross is not None and context is not None:
            tokens = tokens + self.cross(F.layer_norm(tokens, tokens.shape[-1:], eps=self.eps), context)
        out: Tensor = tokens + gate2 * self.mlp(modulated(tokens, scale2, shift2, self.eps))
        return out


class PlainBlock(nn.Module):
    """tokens + attention(norm(tokens)), then the same with the MLP; the conditions are tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden = config.channels, round(config.mlp_ratio * config.channels)
        self.norm1, self.norm2 = (nn.LayerNorm(width, config.norm_eps) for _ in range(2))
        self.attention = _Attention(config, zero=True)
        self.mlp = _MLP(width, hidden, config.dropout, zero=True)

    def forward(self, tokens: Tensor, embedding: Tensor, context: TextContext | None = None) -> Tensor:
        """The block's output, (B, L, D).

        Args:
            tokens: (B, L, D).
            embedding: (B, D), ignored.
            context: its mask (B, L) marks the valid tokens; None for all.
        """
        tokens = tokens + self.attention(self.norm1(tokens), None if context is None else context.mask)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


def _block(config: TransformerConfig, context_channels: int) -> nn.Module:
    if config.conditioning == "tokens":
        return PlainBlock(config)
    return AdaptiveBlock(config, context_channels)


class _LongSkip(nn.Module):
    """A long skip: the tokens concatenated with those of the corresponding first-half block, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = glorot(linear(2 * channels, channels))

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.linear(torch.cat([tokens, skip], dim=2))
        return joined


def _zero_bias(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the biases to zero; the weights are not, since two consecutive zero layers would receive no gradient."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
