"""Layers of the networks: time and class embedding, residual blocks, self-attention.

Feature maps are (B, C, H, W); ``embedding`` is (B, E), one vector per sample, after its final SiLU. The last layer of
every residual branch is zero-initialised (Ho et al. 2020), so that each block starts as the identity; all other layers
use torch's default initialisation, as in ADM, which trained faster here than Ho et al.'s Glorot-uniform weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core import operators
from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.condition_spec import UNCONDITIONAL, ConditionSpec
from undiffuse.networks.config import EmbeddedConfig
from undiffuse.networks.cross_attention import CrossAttention, QueryKeyNorm, TextContext

Resample = Callable[[Tensor], Tensor]
M = TypeVar("M", bound=nn.Module)


def linear(channels: int, out_channels: int, *, zero: bool = False) -> nn.Linear:
    """A linear layer.

    Args:
        channels: input channels.
        out_channels: output channels.
        zero: initialise weights and biases with zeros.
    """
    layer = nn.Linear(channels, out_channels)
    return zero_init(layer) if zero else layer


def conv(channels: int, out_channels: int, kernel: int = 3, *, zero: bool = False) -> nn.Conv2d:
    """A convolution with stride 1 that keeps the size of the map.

    Args:
        channels: input channels.
        out_channels: output channels.
        kernel: kernel size, odd.
        zero: initialise weights and biases with zeros.
    """
    layer = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2)
    return zero_init(layer) if zero else layer


def zero_init(layer: M) -> M:
    """Set all parameters of a layer to zero, in place."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def num_groups(channels: int, most: int = 32) -> int:
    """The largest divisor of ``channels`` up to ``most`` with at least 4 channels per group.

    With one channel per group, the norm would cancel the time embedding that is added to the channel.

    Args:
        channels: number of channels, at least 1.
        most: maximum number of groups, at least 1.
    Example:
        >>> num_groups(96), num_groups(12)
        (24, 3)
    """
    limit = max(1, min(most, channels // 4))
    return next(groups for groups in range(limit, 0, -1) if channels % groups == 0)


class GroupNorm(nn.GroupNorm):
    """Group norm with float32 statistics; the output has the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised map.

        Args:
            x: (B, C, H, W).
        Returns:
            (B, C, H, W), in the dtype of ``x``.
        """
        return operators.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int, most_groups: int, eps: float) -> GroupNorm:
    """A group norm with the number of groups from ``num_groups``.

    Args:
        channels: number of channels.
        most_groups: maximum number of groups, at least 1.
        eps: added to the variance, above 0.
    """
    return GroupNorm(num_groups(channels, most_groups), channels, eps)


def norm_silu(norm: GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """SiLU(norm(x + shift)).

    Args:
        norm: group norm of C channels.
        x: (B, C, H, W).
        shift: (B, C), the same at every pixel; None for 0.
    Returns:
        (B, C, H, W).
    """
    return operators.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, shift=shift, silu=True)


def modulated(norm: GroupNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Adaptive group norm (Dhariwal & Nichol 2021): SiLU(norm(x) (1 + scale) + shift), per sample and channel.

    Args:
        norm: group norm of C channels, with weight and bias.
        x: (B, C, H, W).
        scale: (B, C).
        shift: (B, C).
    Returns:
        (B, C, H, W).
    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 3.1, eq. 4.
    """
    factor = 1 + scale.to(norm.weight.dtype)
    weight = norm.weight * factor
    bias = torch.addcmul(shift.to(norm.bias.dtype), norm.bias, factor)
    return operators.group_norm(x, norm.num_groups, weight, bias, norm.eps, silu=True)


class Sinusoid(nn.Module):
    """Sines and cosines of c_noise at frequencies from 1 down to 1/10000, ``(B,) -> (B, width)``.

    Args:
        width: number of features; if odd, the last is 0.
        convention: ``ddpm``, sines first and 1/10000 included, or ``adm``, cosines first and 1/10000 excluded.
    Source: Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5, in the conventions of Ho et al. and of ADM.
    """

    def __init__(self, width: int, convention: Literal["ddpm", "adm"]) -> None:
        super().__init__()
        self.width, self.convention = width, convention

    def forward(self, c_noise: Tensor) -> Tensor:
        """The features, (B, width) in float32 or higher precision.

        Args:
            c_noise: (B,), any real numbers.
        """
        half = self.width // 2
        spacing = max(half - 1, 1) if self.convention == "ddpm" else half
        index = torch.arange(half, dtype=torch.float64, device=c_noise.device)
        frequencies = torch.exp(-math.log(10_000) * index / spacing)
        angle = at_least_float32(c_noise)[:, None] * frequencies.to(at_least_float32(c_noise).dtype)
        waves = [angle.sin(), angle.cos()]
        features = torch.cat(waves if self.convention == "ddpm" else waves[::-1], dim=1)
        return F.pad(features, (0, self.width % 2))


class RandomFourier(nn.Module):
    """cos and sin of 2 pi w c_noise with fixed random w ~ N(0, scale^2), ``(B,) -> (B, width)``.

    Args:
        width: number of features; if odd, the last is 0.
        scale: standard deviation of w, in cycles per unit of c_noise.
    Source: Tancik et al. 2020, arXiv:2006.10739; Song et al. 2021, arXiv:2011.13456.
    """

    frequencies: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", torch.randn(width // 2) * scale)

    def forward(self, c_noise: Tensor) -> Tensor:
        """The features, (B, width) in float32 or higher precision.

        Args:
            c_noise: (B,), any real numbers.
        """
        c_noise = at_least_float32(c_noise)
        angle = 2 * math.pi * c_noise[:, None] * self.frequencies.to(c_noise.dtype)
        return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, self.width % 2))


def fold(x: Tensor, patch: int) -> Tensor:
    """Fold patches into channels (pixel unshuffle), with zero padding at the bottom and right.

    Implemented here because ``F.pixel_unshuffle`` returns an empty batch with unchanged shape.

    Args:
        x: (B, C, H, W).
        patch: side of a patch, at least 1.
    Returns:
        (B, C patch^2, ceil(H / patch), ceil(W / patch)).
    """
    x = F.pad(x, (0, -x.shape[-1] % patch, 0, -x.shape[-2] % patch))
    batch, channels, height, width = x.shape
    blocks = x.view(batch, channels, height // patch, patch, width // patch, patch).permute(0, 1, 3, 5, 2, 4)
    return blocks.reshape(batch, channels * patch**2, height // patch, width // patch)


def unfold(x: Tensor, patch: int) -> Tensor:
    """Unfold channels to patches (pixel shuffle), the inverse of ``fold`` up to its padding.

    Args:
        x: (B, C patch^2, h, w).
        patch: side of a patch, at least 1.
    Returns:
        (B, C, h patch, w patch).
    """
    batch, channels, height, width = x.shape
    blocks = x.view(batch, channels // patch**2, patch, patch, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, channels // patch**2, height * patch, width * patch)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert ``x`` to float32 unless it is float64; half precision cannot resolve neighbouring times.

    Args:
        x: any shape.
    """
    return x if x.dtype == torch.float64 else x.float()


class _ZeroInitLinear(nn.Module):
    """A zero-initialised linear layer; draws no random numbers, so that all other weights are independent of it."""

    def __init__(self, num_labels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, num_labels))

    def forward(self, label: Tensor) -> Tensor:
        return F.linear(label.to(self.weight), self.weight)


#: Factor of the gap between two time labels before its sinusoidal features: over labels of 1000 t the highest frequency
#: completes about three periods. The mean velocity is smooth in its end time, and high frequencies would only add noise
#: to its derivative.
_GAP_SCALE = 0.02


class Embedding(nn.Module):
    """Embedding of time and class, ``(B,), Condition -> (B, width)``, with a final SiLU.

    Args:
        config: configuration of the time features.
        features: width of the time features.
        width: width of the embedding.
        spec: the conditions of the network. The class embedding has one additional row for "no class" (label -1, or no
            labels). The augmentation of a training image is added to the time features by a zero-initialised linear
            layer (Karras et al. 2022, appendix F.2); no augmentation is all zeros. Features of the gap from c_noise to
            the evaluation's ``target_time`` (a time label) are added by a zero-initialised linear layer (Geng et al.
            2025, arXiv:2505.13447, sec. 4.3); without a target time the gap is 0. A pooled text embedding is added by
            another zero-initialised linear layer.
    """

    def __init__(
        self,
        config: EmbeddedConfig,
        features: int,
        width: int,
        spec: ConditionSpec = UNCONDITIONAL,
    ) -> None:
        super().__init__()
        self.features: nn.Module
        if config.fourier_scale is not None:
            self.features = RandomFourier(features, config.fourier_scale)
        else:
            self.features = Sinusoid(features, "ddpm" if config.time_features == "ddpm" else "adm")
        self.first, self.second = linear(features, width), linear(width, width)
        self.num_classes = spec.num_classes
        self.classes = nn.Embedding(spec.num_classes + 1, width) if spec.num_classes else None
        self.augment = _ZeroInitLinear(spec.num_augment, features) if spec.num_augment else None
        self.gap = Sinusoid(features, "adm") if spec.target_time else None
        self.until = _ZeroInitLinear(features, width) if spec.target_time else None  # data
        pooled = spec.text.pooled if spec.text is not None else 0
        self.pooled = _ZeroInitLinear(pooled, width) if pooled else None

    def forward(self, c_noise: Tensor, cond: Condition, evaluation: Evaluation = Evaluation()) -> Tensor:  # noqa: B008
        """The embedding, (B, width).

        Args:
            c_noise: (B,), time labels.
            cond: its label (B,) and augmentation (B, num_augment) are used, if the spec has them.
            evaluation: its target time (B,) is used, if the spec has it.
        """
        with torch.autocast(c_noise.device.type, enabled=False):  # full precision is cheap for a few vectors
            time, given = self.parts(c_noise, cond, evaluation)
            embedding: Tensor = F.silu(time if given is None else time + given)
        return embedding

    def parts(
        self,
        c_noise: Tensor,
        cond: Condition,
        evaluation: Evaluation = Evaluation(),  # noqa: B008
    ) -> tuple[Tensor, Tensor | None]:
        """Separate embeddings of time and of class and pooled text, (B, width) each, before the SiLU.

        The second is None for a network without both.

        Args:
            c_noise: (B,), time labels.
            cond: its label (B,) and augmentation (B, num_augment) are used, if the spec has them.
            evaluation: its target time (B,) is used, if the spec has it.
        """
        features: Tensor = self.features(c_noise).to(self.first.weight.dtype)
        if self.augment is not None and cond.augment is not None:
            features = features + self.augment(cond.augment)
        hidden = self.first(features)
        if self.gap is not None and self.until is not None:  # data
            target = evaluation.target_time
            gap = torch.zeros_like(c_noise) if target is None else c_noise - target
            # zero for a gap of 0: otherwise updates of this layer would change the instantaneous velocity as well
            gap_features = self.gap(_GAP_SCALE * gap) - self.gap(torch.zeros_like(gap))
            hidden = hidden + self.until(gap_features)  # data
        time: Tensor = self.second(F.silu(hidden))
        return time, self._given(c_noise, cond)

    def _given(self, c_noise: Tensor, cond: Condition) -> Tensor | None:
        """The embedding of class and pooled text."""
        label = None if self.classes is None else self.classes(self._row(c_noise, cond))
        if self.pooled is None:
            return label
        width = self.pooled.weight.shape[1]
        text: Tensor = self.pooled(cond.pooled if cond.pooled is not None else c_noise.new_zeros(len(c_noise), width))
        return text if label is None else label + text

    def _row(self, c_noise: Tensor, cond: Condition) -> Tensor:
        if cond.label is None:
            return torch.full_like(c_noise, self.num_classes, dtype=torch.long)
        label = cond.label.to(c_noise.device).long()
        return torch.where(label < 0, self.num_classes, label)


def rescaled(x: Tensor, scale: float) -> Tensor:
    """``scale x``; returns ``x`` itself if the scale is 1.

    Args:
        x: any shape.
        scale: the factor.
    """
    return x if scale == 1 else scale * x


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), the second norm conditioned on the embedding.

    Args:
        channels: input channels, C.
        out_channels: output channels, D.
        embedding_channels: E.
        scale_shift: h -> norm(h) (1 + scale) + shift (ADM's adaptive group norm) instead of norm(h + shift).
        norm: factory of the norm for a number of channels.
        dropout: probability before the second convolution, in [0, 1).
        scale: factor of the sum of both branches; 1 / sqrt(2) preserves the variance (Song et al. 2021).
        project: use a 1 x 1 convolution on the shortcut even if C = D.
    Source: Ho et al. 2020, appendix B; Dhariwal & Nichol 2021, sec. 3.1; Song et al. 2021, arXiv:2011.13456, app. H.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        scale_shift: bool,
        norm: Callable[[int], GroupNorm],
        dropout: float,
        scale: float = 1.0,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift, self.scale = scale_shift, scale
        self.norm1, self.norm2 = norm(channels), norm(out_channels)
        self.conv1 = conv(channels, out_channels)
        self.conv2 = conv(out_channels, out_channels, zero=True)
        self.embed = linear(embedding_channels, out_channels * (2 if scale_shift else 1))
        self.dropout = nn.Dropout(dropout)
        self.shortcut = conv(channels, out_channels, 1) if project or channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, resample: Resample | None = None) -> Tensor:
        """The block's output, (B, D, H, W), or at the new resolution with ``resample``.

        Args:
            x: (B, C, H, W).
            embedding: (B, E).
            resample: changes the resolution of both branches, after the first activation; optional.
        """
        h = norm_silu(self.norm1, x)
        if resample is not None:
            h, x = resample(h), resample(x)
        h = self._condition(self.conv1(h), self.embed(embedding))
        h = self.conv2(self.dropout(h))
        return rescaled(self.shortcut(x) + h, self.scale)

    def _condition(self, h: Tensor, parameters: Tensor) -> Tensor:
        """SiLU of the second norm, with shift before it, or scale and shift after it, from the embedding."""
        if not self.scale_shift:
            return norm_silu(self.norm2, h, parameters)
        return modulated(self.norm2, h, *parameters.chunk(2, dim=1))


class SelfAttention(nn.Module):
    """x + projection(attention(norm(x))) over all pixels of a map.

    Args:
        channels: C, of input and output.
        heads: attention heads; divides C.
        norm: factory of the norm for a number of channels.
        scale: factor of the sum of both branches.
        query_key_norm: normalise queries and keys per head.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        norm: Callable[[int], GroupNorm],
        scale: float = 1.0,
        *,
        query_key_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.norm = norm(channels)
        self.qkv = linear(channels, 3 * channels)
        self.out = linear(channels, channels, zero=True)
        self.norms = QueryKeyNorm(channels // heads) if query_key_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, C, H, W).

        Args:
            x: (B, C, H, W).
        """
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        qkv = self.qkv(tokens).view(batch, height * width, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, HW, C / heads) each
        if self.norms is not None:
            query, key = self.norms(query, key)
        mixed = operators.attention(query, key, value).transpose(1, 2).reshape(tokens.shape)
        out: Tensor = self.out(mixed).transpose(1, 2).reshape(x.shape)
        return rescaled(x + out, self.scale)


class TextAttention(nn.Module):
    """x + cross_attention(norm(x), text) over all pixels of a map.

    Args:
        channels: C, of input and output.
        context_channels: channels of the text tokens.
        heads: attention heads; divides C.
        norm: factory of the norm for a number of channels.
        scale: factor of the sum of both branches.
        query_key_norm: normalise queries and keys per head.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        norm: Callable[[int], GroupNorm],
        scale: float = 1.0,
        *,
        query_key_norm: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.norm = scale, norm(channels)
        self.cross = CrossAttention(channels, context_channels, heads, query_key_norm=query_key_norm)

    def forward(self, x: Tensor, context: TextContext) -> Tensor:
        """The block's output, (B, C, H, W).

        Args:
            x: (B, C, H, W).
            context: tokens of the text and their mask.
        """
        attended = self.cross(self.norm(x).flatten(2).transpose(1, 2), context)
        return rescaled(x + attended.transpose(1, 2).reshape(x.shape), self.scale)
