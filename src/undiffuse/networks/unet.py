"""The U-Net of diffusion models: down through levels of falling resolution and up again, with skips across.

Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 3.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.networks.config import UNetConfig
from undiffuse.networks.layers import (
    ConvDown,
    Embedding,
    NearestUp,
    PoolDown,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
    SelfAttention,
    TransposedUp,
    conv,
    fold,
    group_norm,
    unfold,
)


class UNet(nn.Module):
    """See ``UNetConfig`` for what can be chosen.

    Args:
        config: the configuration.
        shape: (C, H, W) of one picture; sizes need not be powers of two, nor even.
        num_classes: labels it is told; 0 makes it ignore them.
        output_factor: output channels for each of the C.
    Raises:
        UsageError: not the shape of a picture, or one too small for so many levels.
    """

    def __init__(
        self, config: UNetConfig, shape: tuple[int, ...], num_classes: int = 0, output_factor: int = 1
    ) -> None:
        super().__init__()
        check_shape(config, shape)
        self.patch_size, self.num_levels = config.patch_size, config.num_levels
        make, pixels = _Maker(config), config.patch_size**2
        self.embedding = Embedding(config, make.embedding_channels // 4, make.embedding_channels, num_classes)
        self.stem = conv(shape[0] * pixels, config.channels)
        self.down, skips = _down_path(make)
        self.middle = _Middle(make)
        self.up = _up_path(make, skips)
        self.norm = make.norm(config.channels)
        self.head = conv(config.channels, output_factor * shape[0] * pixels, zero=True)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """F(x, c_noise, cond): (B, C, H, W) and (B,) to (B, output_factor * C, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.embedding(c_noise, cond)
        h = self.stem(fold(x, self.patch_size) if self.patch_size > 1 else x)
        skips = [h]
        for level in self.down:
            skips += level(skips[-1], embedding)
        h = self.middle(skips[-1], embedding)
        for level in self.up:
            h = level(h, skips, embedding)
        return self._read(h)[:, :, :height, :width]

    def _read(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):  # what leaves the network is not rounded to bfloat16
            h = F.silu(self.norm(h.to(self.head.weight.dtype)))
            out: Tensor = self.head(h)
        return unfold(out, self.patch_size) if self.patch_size > 1 else out


def check_shape(config: UNetConfig, shape: tuple[int, ...]) -> None:
    """Raise ``UsageError`` unless a picture of this shape can be halved often enough."""
    if len(shape) != 3:
        raise UsageError(f"network 'unet' takes pictures (C, H, W), got examples of shape {shape}; use network 'mlp'")
    side = -(-min(shape[1:]) // config.patch_size)
    possible = 1 + max(side - 1, 0).bit_length()
    if config.num_levels > possible:
        raise UsageError(
            f"{config.num_levels} levels are too many for {shape[1]} x {shape[2]} pixels at patch_size "
            f"{config.patch_size}: at most {possible}; shorten multipliers {config.multipliers}"
        )


class _Maker:
    """Builds the parts of one configuration."""

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        self.embedding_channels = config.embedding_channels or 4 * config.channels
        self.norm = partial(group_norm, most_groups=config.norm_groups, eps=config.norm_eps)

    def block(self, channels: int, out_channels: int) -> ResidualBlock:
        return ResidualBlock(
            channels,
            out_channels,
            self.embedding_channels,
            scale_shift=self.config.time_injection == "scale_shift",
            norm=self.norm,
            dropout=self.config.dropout,
        )

    def attention(self, channels: int) -> SelfAttention:
        return SelfAttention(channels, self.config.heads(channels), self.norm)

    def stage(self, channels: int, level: int) -> _Stage:
        out_channels = self.config.level_channels(level)
        attention = self.attention(out_channels) if self.config.attends(level) else None
        return _Stage(self.block(channels, out_channels), attention)

    def downsample(self, channels: int) -> nn.Module:
        kind = self.config.downsample
        if kind == "residual":
            return ResidualDown(self.block(channels, channels))
        return PoolDown() if kind == "pool" else ConvDown(channels, same=kind == "conv_same")

    def upsample(self, channels: int) -> nn.Module:
        kind = self.config.upsample
        if kind == "residual":
            return ResidualUp(self.block(channels, channels))
        return TransposedUp(channels) if kind == "transposed" else NearestUp(channels)


class _Stage(nn.Module):
    """A residual block and, where the level has it, self-attention."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.block(x, embedding)
        if self.attention is not None:
            h = self.attention(h)
        return h


class _DownLevel(nn.Module):
    """The stages of one level, then the way to the next; every result is kept for the way up."""

    def __init__(self, stages: list[_Stage], downsample: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.downsample = nn.ModuleList(stages), downsample

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            h = stage(h, embedding)
            outputs.append(h)
        if self.downsample is not None:
            outputs.append(self.downsample(h, embedding))
        return outputs


class _Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, make: _Maker) -> None:
        super().__init__()
        channels = make.config.level_channels(make.config.num_levels - 1)
        attention = make.attention(channels) if make.config.middle_attention else None
        self.first = _Stage(make.block(channels, channels), attention)
        self.last = make.block(channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(h, embedding), embedding)
        return out


class _UpLevel(nn.Module):
    """One level on the way up: each stage takes the last skip that is left, beside what comes from below."""

    def __init__(self, stages: list[_Stage], upsample: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.upsample = nn.ModuleList(stages), upsample

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        for stage in self.stages:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        if self.upsample is not None:
            h = self.upsample(h, embedding, skips[-1].shape[-2:])
        return h


def _down_path(make: _Maker) -> tuple[nn.ModuleList, list[int]]:
    """The levels on the way down, and the channels of every skip they leave (the stem's first)."""
    config = make.config
    levels, skips = nn.ModuleList(), [config.channels]
    for level in range(config.num_levels):
        stages = []
        for _ in range(config.num_blocks):
            stages.append(make.stage(skips[-1], level))
            skips.append(config.level_channels(level))
        last = level == config.num_levels - 1
        levels.append(_DownLevel(stages, None if last else make.downsample(skips[-1])))
        if not last:
            skips.append(skips[-1])
    return levels, skips


def _up_path(make: _Maker, skips: list[int]) -> nn.ModuleList:
    """The levels on the way up, from the coarsest."""
    config = make.config
    levels, left, channels = nn.ModuleList(), list(skips), skips[-1]
    for level in reversed(range(config.num_levels)):
        stages = []
        for _ in range(config.num_blocks + 1):
            stages.append(make.stage(channels + left.pop(), level))
            channels = config.level_channels(level)
        levels.append(_UpLevel(stages, make.upsample(channels) if level > 0 else None))
    return levels
