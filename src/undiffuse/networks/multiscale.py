"""Progressive growing: the picture itself, smaller and smaller, joins the way down; the output grows on the way up.

On the way down ``pyramid`` starts as the network's input; on the way up as None. Each join takes (pyramid, features of
its level) and returns both anew:

=================  =====================================================================================
``InputSkip``      the smaller picture through a 1 x 1 convolution, added to the features or set beside them
``InputResidual``  the pyramid itself is learned, and its sum with the features is both from there on
``OutputSkip``     every level says its part of the output, the sum grows from coarse to fine
``OutputResidual`` a learned pyramid whose sum with the features is both from there on
=================  =====================================================================================

Source: Karras et al. 2020, arXiv:1912.04958, sec. 4.1; Song et al. 2021, arXiv:2011.13456, appendix H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.networks.layers import GroupNorm, conv, norm_silu, rescaled
from undiffuse.networks.resample import Downsample, FIRConvDown, FIRConvUp, Upsample


def output_layer(norm: GroupNorm, head: nn.Conv2d, h: Tensor) -> Tensor:
    """conv(SiLU(norm(h))) without autocast: what leaves the network is not rounded to bfloat16, channels come first."""
    with torch.autocast(h.device.type, enabled=False):
        out: Tensor = head(norm_silu(norm, h.to(head.weight.dtype)))
    return out.contiguous()


class InputSkip(nn.Module):
    """(pyramid (B, P, H, W), h (B, C, h, w)) -> the smaller pyramid, and h with a projection of it.

    Args:
        pyramid_channels, channels: P and C.
        smaller: halves the pyramid.
        beside: concatenate (2 C channels) instead of adding.
    """

    def __init__(self, pyramid_channels: int, channels: int, smaller: Downsample, *, beside: bool) -> None:
        super().__init__()
        self.smaller, self.beside = smaller, beside
        self.project = conv(pyramid_channels, channels, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.smaller(pyramid)
        projected: Tensor = self.project(pyramid)
        return pyramid, torch.cat([projected, h], dim=1) if self.beside else projected + h


class InputResidual(nn.Module):
    """(pyramid, h) -> ``scale (FIRConvDown(pyramid) + h)``, twice: as the pyramid and as the features."""

    def __init__(self, pyramid_channels: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.smaller = FIRConvDown(pyramid_channels, channels)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        joined = rescaled(self.smaller(pyramid) + h, self.scale)
        return joined, joined


class OutputSkip(nn.Module):
    """(pyramid or None, h) -> the pyramid grown to h's size plus ``head(SiLU(norm(h)))``, and h as it was."""

    def __init__(self, norm: GroupNorm, head: nn.Conv2d, larger: Upsample) -> None:
        super().__init__()
        self.norm, self.head, self.larger = norm, head, larger

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        out = output_layer(self.norm, self.head, h)
        return out if pyramid is None else out + self.larger(pyramid, (h.shape[-2], h.shape[-1])), h


class OutputStart(nn.Module):
    """(None, h) -> conv(SiLU(norm(h))), where a learned pyramid begins, and h as it was."""

    def __init__(self, norm: GroupNorm, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv(channels, channels)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(norm_silu(self.norm, h)), h


class OutputResidual(nn.Module):
    """(pyramid, h) -> ``scale (FIRConvUp(pyramid) + h)``, twice: as the pyramid and as the features."""

    def __init__(self, pyramid_channels: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.larger = FIRConvUp(pyramid_channels, channels)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        joined = rescaled(self.larger(pyramid, (h.shape[-2], h.shape[-1])) + h, self.scale)
        return joined, joined
