"""Multi-scale input and output: the image at each size is joined to the way down; the output grows on the way up.

On the way down ``pyramid`` starts as the network's input; on the way up as None. Each join takes (pyramid, features of
its level) and returns both anew:

=================  =====================================================================================
``InputSkip``      the smaller image through a 1 x 1 convolution, added or concatenated to the features
``InputResidual``  the pyramid itself is learned, and its sum with the features is both from there on
``OutputSkip``     every level adds its part of the output, the sum grows from coarse to fine
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
    """conv(SiLU(norm(h))) without autocast: what leaves the network is not rounded to bfloat16.

    Args:
        norm: of C channels.
        head: convolution of C channels.
        h: (B, C, H, W).
    Returns:
        (B, out channels, H, W) in the dtype of the weights, contiguous.
    """
    with torch.autocast(h.device.type, enabled=False):
        out: Tensor = head(norm_silu(norm, h.to(head.weight.dtype)))
    return out.contiguous()


class InputSkip(nn.Module):
    """The smaller image through a 1 x 1 convolution, joined to the features.

    Args:
        pyramid_channels: P.
        channels: C.
        smaller: halves the pyramid.
        concatenate: to 2 C channels instead of adding.
    """

    def __init__(self, pyramid_channels: int, channels: int, smaller: Downsample, *, concatenate: bool) -> None:
        super().__init__()
        self.smaller, self.concatenate = smaller, concatenate
        self.project = conv(pyramid_channels, channels, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller pyramid (B, P, h, w), and the features with its projection.

        Args:
            pyramid: (B, P, H, W), twice as large as ``h``.
            h: (B, C, h, w), features of this level.
        """
        pyramid = self.smaller(pyramid)
        projected: Tensor = self.project(pyramid)
        return pyramid, torch.cat([projected, h], dim=1) if self.concatenate else projected + h


class InputResidual(nn.Module):
    """``scale (FIRConvDown(pyramid) + h)``, which is both the pyramid and the features from there on.

    Args:
        pyramid_channels: P.
        channels: C.
        scale: on the sum, 1 or 1 / sqrt(2).
    """

    def __init__(self, pyramid_channels: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.smaller = FIRConvDown(pyramid_channels, channels)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (B, C, h, w), twice.

        Args:
            pyramid: (B, P, H, W), twice as large as ``h``.
            h: (B, C, h, w), features of this level.
        """
        joined = rescaled(self.smaller(pyramid) + h, self.scale)
        return joined, joined


class OutputSkip(nn.Module):
    """The pyramid grown to h's size plus ``head(SiLU(norm(h)))``; the features stay as they are.

    Args:
        norm: of the features, C channels.
        head: convolution from C to P channels.
        larger: doubles the pyramid.
    """

    def __init__(self, norm: GroupNorm, head: nn.Conv2d, larger: Upsample) -> None:
        super().__init__()
        self.norm, self.head, self.larger = norm, head, larger

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """The larger pyramid (B, P, h, w), and ``h``.

        Args:
            pyramid: (B, P, H, W), half as large as ``h``; None at the coarsest level.
            h: (B, C, h, w), features of this level.
        """
        out = output_layer(self.norm, self.head, h)
        return out if pyramid is None else out + self.larger(pyramid, (h.shape[-2], h.shape[-1])), h


class OutputStart(nn.Module):
    """conv(SiLU(norm(h))), where a learned pyramid begins; the features stay as they are.

    Args:
        norm: of the features.
        channels: C, of the features and the pyramid.
    """

    def __init__(self, norm: GroupNorm, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv(channels, channels)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """The pyramid (B, C, h, w), and ``h``.

        Args:
            pyramid: None; (B, C, h, w) would be ignored.
            h: (B, C, h, w), features of this level.
        """
        return self.conv(norm_silu(self.norm, h)), h


class OutputResidual(nn.Module):
    """``scale (FIRConvUp(pyramid) + h)``, which is both the pyramid and the features from there on.

    Args:
        pyramid_channels: P.
        channels: C.
        scale: on the sum, 1 or 1 / sqrt(2).
    """

    def __init__(self, pyramid_channels: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.larger = FIRConvUp(pyramid_channels, channels)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (B, C, h, w), twice.

        Args:
            pyramid: (B, P, H, W), half as large as ``h``.
            h: (B, C, h, w), features of this level.
        """
        joined = rescaled(self.larger(pyramid, (h.shape[-2], h.shape[-1])) + h, self.scale)
        return joined, joined
