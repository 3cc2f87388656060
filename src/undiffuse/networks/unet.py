"""The U-Net of diffusion models: an encoder and a decoder over several resolutions with skip connections.

Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 3; Song et al.
2021, arXiv:2011.13456, appendix H.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.operators import feature_map
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.networks.config import UNetConfig
from undiffuse.networks.cross_attention import TextContext, TextInput
from undiffuse.networks.layers import (
    Embedding,
    ResidualBlock,
    SelfAttention,
    TextAttention,
    conv,
    fold,
    group_norm,
    unfold,
)
from undiffuse.networks.multiscale import (
    InputResidual,
    InputSkip,
    OutputResidual,
    OutputSkip,
    OutputStart,
    output_layer,
)
from undiffuse.networks.resample import (
    ConvDown,
    Downsample,
    FIRDown,
    FIRUp,
    NearestUp,
    PoolDown,
    ResidualDown,
    ResidualUp,
    TransposedUp,
    Upsample,
    double,
    halve,
)
from undiffuse.networks.spec import NetworkSpec
from undiffuse.networks.text_transformer import TextTransformer


class UNet(nn.Module):
    """See ``UNetConfig``.

    Args:
        config: the configuration.
        spec: shape and conditions; images (C, H, W) of any size.
    Raises:
        UsageError: a shape that is not that of an image, or an image too small for the number of levels.
    """

    def __init__(
        self,
        config: UNetConfig,
        spec: NetworkSpec,
    ) -> None:
        super().__init__()
        shape, output_factor = spec.shape, spec.output_factor
        check_shape(config, shape)
        self.patch_size, self.num_levels = config.patch_size, config.num_levels
        in_channels = shape[0] * config.patch_size**2
        text = spec.condition.text
        context_channels = text.width if text is not None else 0
        builder = _Builder(config, in_channels, output_factor * in_channels, context_channels)
        self.text = TextInput(text) if text is not None and text.width else None
        self.embedding = Embedding(config, builder.time_channels, builder.embedding_channels, spec.condition)
        self.stem = conv(in_channels, config.channels)
        self.down, skips = _encoder(builder)
        self.middle = _Middle(builder, skips[-1])
        # with progressive output, features alone do not suffice to resume at the finest level
        reusable = config.num_levels > 1 and config.progressive_output == "none"
        self.middle_channels = skips[-1]
        self.cached_features_channels = config.level_channels(1) if reusable else 0
        if output_factor:
            self._build_output(builder, skips)

    def _build_output(self, builder: _Builder, skips: list[int]) -> None:
        config = builder.config
        self.up = _decoder(builder, skips)
        self.larger = builder.larger() if config.progressive_output == "output_skip" else None
        self.norm = builder.norm(config.level_channels(0))
        self.head = conv(config.level_channels(0), builder.out_channels, zero=True)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition, evaluation: Evaluation = Evaluation()) -> Tensor:  # noqa: B008
        """F(x, c_noise, cond), (B, output_factor * C, H, W).

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
            evaluation: solver inputs: a target time.
        """
        return self.forward_with_features(x, c_noise, cond, evaluation)[0]

    def forward_with_features(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Condition,
        evaluation: Evaluation = Evaluation(),  # noqa: B008
    ) -> tuple[Tensor, Tensor]:
        """``forward``, and the input of the last decoder level, (B, *cached_features_shape).

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
            evaluation: solver inputs: a target time.
        """
        height, width = x.shape[-2:]
        embedding, context = self.embedding(c_noise, cond, evaluation), self._context(cond, x)
        skips = self._encode(x, embedding, context)
        h, pyramid = self.middle(skips[-1], embedding, context), None
        cached_features = h
        for level in self.up:
            cached_features = h
            h, pyramid = level(h, skips, embedding, pyramid, context)
        return self._output(h, pyramid)[:, :, :height, :width], cached_features

    def middle_features(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """Output of the bottleneck (the middle blocks), (B, middle_channels, h, w).

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
        """
        embedding, context = self.embedding(c_noise, cond), self._context(cond, x)
        out: Tensor = self.middle(self._encode(x, embedding, context)[-1], embedding, context)
        return out

    def _context(self, cond: Condition, x: Tensor) -> TextContext | None:
        return None if self.text is None else self.text(cond, x)

    def features(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """Mean over the pixels of SiLU(middle features), (B, num_features): the pooled encoder, for classifiers.

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
        Source: Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.1, with average pooling.
        """
        return F.silu(self.middle_features(x, c_noise, cond)).mean((2, 3))

    @property
    def num_features(self) -> int:
        """Size of ``features``."""
        return self.middle_channels

    def _encode(self, x: Tensor, embedding: Tensor, context: TextContext | None) -> list[Tensor]:
        """Outputs of the stem and all encoder stages, used as skip connections."""
        smaller = fold(x, self.patch_size) if self.patch_size > 1 else x
        skips = [feature_map(self.stem(smaller))]
        for level in self.down:
            features, smaller = level(skips[-1], embedding, smaller, context)
            skips += features
        return skips

    def forward_cached(self, x: Tensor, c_noise: Tensor, cond: Condition, cached_features: Tensor) -> Tensor:
        """``forward`` with cached input of the last decoder level: only the finest level is computed (DeepCache).

        Args:
            x: (B, C, H, W).
            c_noise: (B,), time labels.
            cond: the network's condition.
            cached_features: (B, *cached_features_shape), from ``forward_with_features`` at a nearby time.
        Returns:
            (B, output_factor * C, H, W).
        Source: Ma et al. 2023, "DeepCache", arXiv:2312.00858, sec. 3.2.
        """
        height, width = x.shape[-2:]
        embedding, context = self.embedding(c_noise, cond), self._context(cond, x)
        skips = [feature_map(self.stem(fold(x, self.patch_size) if self.patch_size > 1 else x))]
        for stage in self.down[0].stages:  # type: ignore[union-attr]
            skips.append(stage(skips[-1], embedding, context))
        h, _ = self.up[-1](cached_features.to(skips[0].dtype), skips, embedding, None, context)
        return self._output(h, None)[:, :, :height, :width]

    def cached_features_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the features that ``forward_with_features`` returns for one image (C, H, W).

        None if the network does not support feature caching.
        """
        if not self.cached_features_channels:
            return None
        return self.cached_features_channels, *(-(-side // self.patch_size) for side in shape[1:])

    def _output(self, h: Tensor, pyramid: Tensor | None) -> Tensor:
        out = output_layer(self.norm, self.head, h)
        if self.larger is not None and pyramid is not None:
            out = out + self.larger(pyramid, (h.shape[-2], h.shape[-1]))
        return unfold(out, self.patch_size) if self.patch_size > 1 else out


def check_shape(config: UNetConfig, shape: tuple[int, ...]) -> None:
    """Check that an image can be halved as often as the configuration requires.

    Args:
        config: configuration of the network.
        shape: (C, H, W) of one image.
    Raises:
        UsageError: a shape that is not that of an image, or an image that is too small.
    """
    if not Space.of_data(shape).is_spatial:
        raise UsageError(f"network 'unet' takes images (C, H, W), got examples of shape {shape}; use network 'mlp'")
    side = -(-min(shape[1:]) // config.patch_size)
    possible = 1 + max(side - 1, 0).bit_length()
    if config.num_levels > possible:
        raise UsageError(
            f"{config.num_levels} levels are too many for {shape[1]} x {shape[2]} pixels at patch_size "
            f"{config.patch_size}: at most {possible}; shorten multipliers {config.multipliers}"
        )


class _Builder:
    """Builds the parts of one configuration.

    Args:
        config: the configuration.
        in_channels, out_channels: channels of the network's input and output, after folding patches.
        context_channels: channels of the text tokens; 0 for a network without text.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, context_channels: int = 0) -> None:
        self.config, self.in_channels, self.out_channels = config, in_channels, out_channels
        self.context_channels = context_channels
        self.embedding_channels = config.embedding_channels or 4 * config.channels
        self.time_channels = config.time_channels or self.embedding_channels // 4
        self.scale = math.sqrt(0.5) if config.rescale_residuals else 1.0
        self.norm = partial(group_norm, most_groups=config.norm_groups, eps=config.norm_eps)

    def block(self, channels: int, out_channels: int, *, project: bool = False) -> ResidualBlock:
        return ResidualBlock(
            channels,
            out_channels,
            self.embedding_channels,
            scale_shift=self.config.time_injection == "scale_shift",
            norm=self.norm,
            dropout=self.config.dropout,
            scale=self.scale,
            project=project,
        )

    def attention(self, channels: int) -> SelfAttention:
        heads, norm = self.config.heads(channels), self.config.query_key_norm
        return SelfAttention(channels, heads, self.norm, self.scale, query_key_norm=norm)

    def text_attention(self, channels: int) -> TextAttention | TextTransformer | None:
        if not self.context_channels:
            return None
        config, heads = self.config, self.config.heads(channels)
        options: dict[str, Any] = {"scale": self.scale, "query_key_norm": config.query_key_norm}
        if config.text_block == "attention":
            return TextAttention(channels, self.context_channels, heads, self.norm, **options)
        options |= {"depth": config.text_depth, "dropout": config.dropout}
        return TextTransformer(channels, self.context_channels, heads, self.norm, **options)

    def stage(self, channels: int, level: int, *, attends: bool = True) -> _Stage:
        out_channels = self.config.level_channels(level)
        attention = self.attention(out_channels) if attends and self.config.attends(level) else None
        block = self.block(channels, out_channels)
        text = self.text_attention(out_channels) if attends and self.config.attends_to_text(level) else None
        return _Stage(block, attention, text)

    def smaller(self) -> Downsample:
        return FIRDown() if self.config.resample_filter == "fir" else halve

    def larger(self) -> Upsample:
        return FIRUp() if self.config.resample_filter == "fir" else double

    def downsample(self, channels: int) -> nn.Module:
        kind = self.config.downsample
        if kind == "residual":
            return ResidualDown(self._resampling_block(channels), self.smaller())
        return PoolDown() if kind == "pool" else ConvDown(channels, same=kind == "conv_same")

    def upsample(self, channels: int) -> nn.Module:
        kind = self.config.upsample
        if kind == "residual":
            return ResidualUp(self._resampling_block(channels), self.larger())
        return TransposedUp(channels) if kind == "transposed" else NearestUp(channels)

    def _resampling_block(self, channels: int) -> ResidualBlock:
        return self.block(channels, channels, project=self.config.resample_projection)

    def input_join(self, level: int) -> nn.Module | None:
        """The multi-scale input module after ``level`` of the encoder, if any."""
        channels = self.config.level_channels(level)
        if self.config.progressive_input == "input_skip":
            concatenate = self.config.progressive_combine == "cat"
            return InputSkip(self.in_channels, channels, self.smaller(), concatenate=concatenate)
        if self.config.progressive_input == "residual":
            above = self.config.level_channels(level - 1) if level else self.in_channels
            return InputResidual(above, channels, self.scale)
        return None

    def output_join(self, level: int) -> nn.Module | None:
        """The multi-scale output module of ``level`` of the decoder, if any; the finest level uses the head."""
        channels, coarsest = self.config.level_channels(level), level == self.config.num_levels - 1
        if self.config.progressive_output == "output_skip" and level > 0:
            head = conv(channels, self.out_channels, zero=True)
            return OutputSkip(self.norm(channels), head, self.larger())
        if self.config.progressive_output == "residual":
            if coarsest:
                return OutputStart(self.norm(channels), channels)
            return OutputResidual(self.config.level_channels(level + 1), channels, self.scale)
        return None


class _Stage(nn.Module):
    """A residual block and, if the level has them, self-attention and cross-attention to the text."""

    def __init__(
        self,
        block: ResidualBlock,
        attention: SelfAttention | None,
        text: TextAttention | TextTransformer | None = None,
    ) -> None:
        super().__init__()
        self.block, self.attention, self.text = block, attention, text

    def forward(self, x: Tensor, embedding: Tensor, context: TextContext | None) -> Tensor:
        h: Tensor = self.block(x, embedding)
        if self.attention is not None:
            h = self.attention(h)
        if self.text is not None and context is not None:
            h = self.text(h, context)
        return h


class _DownLevel(nn.Module):
    """One encoder level: its stages, then downsampling; all outputs are returned as skip connections."""

    def __init__(self, stages: list[_Stage], downsample: nn.Module | None, join: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.downsample, self.join = nn.ModuleList(stages), downsample, join

    def forward(
        self, h: Tensor, embedding: Tensor, pyramid: Tensor, context: TextContext | None
    ) -> tuple[list[Tensor], Tensor]:
        outputs = []
        for stage in self.stages:
            h = stage(h, embedding, context)
            outputs.append(h)
        if self.downsample is not None:
            h = self.downsample(h, embedding)
            if self.join is not None:
                pyramid, h = self.join(pyramid, h)
            outputs.append(feature_map(h))
        return outputs, pyramid


class _Middle(nn.Module):
    """Block, attention (to the text as well), block at the coarsest resolution."""

    def __init__(self, builder: _Builder, channels: int) -> None:
        super().__init__()
        attention = builder.attention(channels) if builder.config.middle_attention else None
        self.first = _Stage(builder.block(channels, channels), attention, builder.text_attention(channels))
        self.last = builder.block(channels, channels)

    def forward(self, h: Tensor, embedding: Tensor, context: TextContext | None) -> Tensor:
        out: Tensor = self.last(self.first(h, embedding, context), embedding)
        return out


class _UpLevel(nn.Module):
    """One decoder level: each stage gets the last remaining skip, concatenated to the features."""

    def __init__(self, stages: list[_Stage], upsample: nn.Module | None, join: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.upsample, self.join = nn.ModuleList(stages), upsample, join

    def forward(
        self, h: Tensor, skips: list[Tensor], embedding: Tensor, pyramid: Tensor | None, context: TextContext | None
    ) -> tuple[Tensor, Tensor | None]:
        for stage in self.stages:
            h = stage(torch.cat([feature_map(h), skips.pop()], dim=1), embedding, context)
        if self.join is not None:
            pyramid, h = self.join(pyramid, h)
        if self.upsample is not None:
            h = self.upsample(feature_map(h), embedding, skips[-1].shape[-2:])
        return h, pyramid


def _encoder(builder: _Builder) -> tuple[nn.ModuleList, list[int]]:
    """The encoder levels, and the channels of all skip connections (the stem's first)."""
    config = builder.config
    levels, skips = nn.ModuleList(), [config.channels]
    for level in range(config.num_levels):
        stages = []
        for _ in range(config.num_blocks):
            stages.append(builder.stage(skips[-1], level))
            skips.append(config.level_channels(level))
        if level == config.num_levels - 1:
            levels.append(_DownLevel(stages, None, None))
        else:
            levels.append(_DownLevel(stages, builder.downsample(skips[-1]), builder.input_join(level)))
            skips.append(skips[-1] * (2 if config.progressive_combine == "cat" else 1))
    return levels, skips


def _decoder(builder: _Builder, skips: list[int]) -> nn.ModuleList:
    """The decoder levels, from the coarsest."""
    config = builder.config
    levels, remaining, channels = nn.ModuleList(), list(skips), skips[-1]
    for level in reversed(range(config.num_levels)):
        stages = []
        for index in range(config.num_blocks + 1):
            attends = config.up_attention == "each" or index == config.num_blocks
            stages.append(builder.stage(channels + remaining.pop(), level, attends=attends))
            channels = config.level_channels(level)
        levels.append(_UpLevel(stages, builder.upsample(channels) if level > 0 else None, builder.output_join(level)))
    return levels
