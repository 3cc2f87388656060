"""Multi-scale input and output (progressive growing): an image pyramid in the encoder and in the decoder.

In the encoder ``pyramid`` is initialised with the network's input, in the decoder with None. Each module maps (pyramid,
features of its level) to new values of both:

=================  =====================================================================================
``InputSkip``      the downsampled image through a 1 x 1 convolution, added or concatenated to the features
``InputResidual``  a learned pyramid; its sum with the features is the new pyramid and the new features
``OutputSkip``     every level adds its part of the output, from coarse to fine
``OutputResidual`` a learned pyramid; its sum with the features is the new pyramid and the new features
=================  =====================================================================================

Source: Karras et al. 2020, arXiv:1912.04958, sec. 4.1; Song et al. 2021, arXiv:2011.13456, appendix H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.networks.layers import GroupNorm, conv, norm_silu, rescaled
from undiffuse.networks.resample import Downsample, FIRConvDown, FIRConvUp, Upsample


def output_layer(norm: GroupNorm, head: nn.Conv2d, h: Tensor) -> Tensor:
    """conv(SiLU(norm(h))) without autocast: the output is not rounded to bfloat16.

    Args:
        norm: group norm of C channels.
        head: convolution with C input channels.
        h: (B, C, H, W).
    Returns:
        (B, out channels, H, W) in the dtype of the weights, contiguous.
    """
    with torch.autocast(h.device.type, enabled=False):
        out: Tensor = head(norm_silu(norm, h.to(head.weight.dtype)))
    return out.contiguous()


class InputSkip(nn.Module):
    """Add or concatenate the downsampled image, projected by a 1 x 1 convolution, to the features.

    Args:
        pyramid_channels: P.
        channels: C.
        smaller: the downsampling of the pyramid.
        concatenate: concatenate to 2 C channels instead of adding.
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
    """``scale (FIRConvDown(pyramid) + h)``, the new pyramid and the new features.

    Args:
        pyramid_channels: P.
        channels: C.
        scale: factor of the sum, 1 or 1 / sqrt(2).
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
    """The upsampled pyramid plus ``head(SiLU(norm(h)))``; the features are unchanged.

    Args:
        norm: norm of the features, C channels.
        head: convolution from C to P channels.
        larger: the upsampling of the pyramid.
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
    """conv(SiLU(norm(h))), the start of a learned pyramid; the features are unchanged.

    Args:
        norm: norm of the features.
        channels: C, channels of the features and the pyramid.
    """

    def __init__(self, norm: GroupNorm, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv(channels, channels)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """The pyramid (B, C, h, w), and ``h``.

        Args:
            pyramid: ignored; None at the coarsest level.
            h: (B, C, h, w), features of this level.
        """
        return self.conv(norm_silu(self.norm, h)), h


class OutputResidual(nn.Module):
    """``scale (FIRConvUp(pyramid) + h)``, the new pyramid and the new features.

    Args:
        pyramid_channels: P.
        channels: C.
        scale: factor of the sum, 1 or 1 / sqrt(2).
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
