"""Downsampling and upsampling: downsampling rounds sizes up, upsampling crops to the requested size.

``Downsample`` is a function (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)), ``Upsample`` its counterpart with the
output size as an argument. There are two pairs: ``halve`` and ``double`` (2 x 2 average pooling, nearest neighbour),
and ``FIRDown`` and ``FIRUp``, which low-pass filter with the binomial kernel [1, 3, 3, 1] against aliasing.

Source: Zhang 2019, arXiv:1904.11486; Karras et al. 2020, arXiv:1912.04958 (filter and padding); Song et al. 2021,
arXiv:2011.13456, appendix H (their use in score networks).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.networks.layers import ResidualBlock, at_least_float32, conv

Downsample = Callable[[Tensor], Tensor]
Upsample = Callable[[Tensor, tuple[int, int]], Tensor]

#: The binomial filter of order 3; both it and its products over two axes are exact in every floating-point format.
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


def halve(x: Tensor) -> Tensor:
    """2 x 2 average pooling, rounding sizes up; windows at an odd border are averaged over their valid pixels.

    Args:
        x: (B, C, H, W).
    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)).
    """
    return F.avg_pool2d(x, 2, ceil_mode=True)


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour upsampling by 2, cropped to ``size``.

    Args:
        x: (B, C, h, w).
        size: (H, W), at most (2 h, 2 w).
    Returns:
        (B, C, H, W).
    """
    height, width = size
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, :height, :width]


class _FIR(nn.Module):
    """Holds the 4 x 4 filter with sum 1 as a non-persistent buffer."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(FIR_TAPS) / sum(FIR_TAPS)
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def filters(self, x: Tensor) -> Tensor:
        """The filter repeated for each channel of ``x``, (C, 1, 4, 4)."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)

    def narrow(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Filter every channel, with zero padding; half precision is computed in float32, which is faster and exact."""
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            filtered = F.conv2d(wide, self.filters(wide), stride=stride, padding=padding, groups=x.shape[1])
        return filtered.to(x.dtype)


class FIRDown(_FIR):
    """y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8 along both axes, with zero padding.

    The frequency response |cos(w / 2)|^3 is 1 at w = 0 and 0 at the Nyquist frequency w = pi. Odd sides are padded by
    repeating the last row or column.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The smaller map, (B, C, ceil(H / 2), ceil(W / 2)).

        Args:
            x: (B, C, H, W).
        """
        return self.narrow(pad_to_even(x), stride=2, padding=1)


class FIRUp(_FIR):
    """y[2i] = (x[i - 1] + 3 x[i]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4 along both axes, cropped to ``size``.

    Four times the transpose of ``FIRDown`` on even sizes, so that constants are preserved.
    """

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The larger map, (B, C, *size).

        Args:
            x: (B, C, h, w).
            size: (H, W), at most (2 h, 2 w).
        """
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            doubled = F.conv_transpose2d(wide, 4 * self.filters(wide), stride=2, padding=1, groups=x.shape[1])
        return doubled[:, :, : size[0], : size[1]].to(x.dtype)


class FIRConvDown(_FIR):
    """The filter at full resolution, then a learned 3 x 3 convolution with stride 2.

    Args:
        channels: input channels, C.
        out_channels: output channels, D.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """The smaller map, (B, D, ceil(H / 2), ceil(W / 2)).

        Args:
            x: (B, C, H, W).
        """
        down: Tensor = self.conv(self.narrow(pad_to_even(x), stride=1, padding=2))
        return down


class FIRConvUp(_FIR):
    """A learned 3 x 3 transposed convolution with stride 2, the filter, then a bias, cropped to the requested size.

    Args:
        channels: input channels, C.
        out_channels: output channels, D.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, out_channels, 3, stride=2, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The larger map, (B, D, *size).

        Args:
            x: (B, C, h, w).
            size: (H, W), at most (2 h, 2 w).
        """
        # stride 2 inserts zeros between the pixels, which reduce the filter's sum to a quarter
        up = 4 * self.narrow(self.conv(x), stride=1, padding=1)
        return up[:, :, : size[0], : size[1]] + self.bias[:, None, None]


def pad_to_even(x: Tensor) -> Tensor:
    """Pad odd sides to even size by repeating the last row or column.

    Args:
        x: (B, C, H, W).
    """
    if x.shape[-2] % 2:
        x = torch.cat([x, x[..., -1:, :]], dim=-2)
    if x.shape[-1] % 2:
        x = torch.cat([x, x[..., -1:]], dim=-1)
    return x


class ConvDown(nn.Module):
    """A convolution with stride 2; sizes are rounded up.

    Args:
        channels: input and output channels.
        same: use TensorFlow's SAME padding (Ho et al.): even sides are padded by one pixel at the end.
    """

    def __init__(self, channels: int, *, same: bool) -> None:
        super().__init__()
        self.same = same
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if same else 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The smaller map, (B, D, ceil(H / 2), ceil(W / 2)).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), ignored.
        """
        if self.same:
            height, width = x.shape[-2:]
            x = F.pad(x, (width % 2, 1, height % 2, 1))
        down: Tensor = self.conv(x)
        return down


class PoolDown(nn.Module):
    """``halve``, without parameters."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The smaller map, (B, C, ceil(H / 2), ceil(W / 2)).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), ignored.
        """
        return halve(x)


class ResidualDown(nn.Module):
    """A residual block with downsampling of both branches: ``halve`` (ADM) or another filter (NCSN++).

    Args:
        block: residual block from C to D channels.
        smaller: the downsampling.
    """

    def __init__(self, block: ResidualBlock, smaller: Downsample = halve) -> None:
        super().__init__()
        self.block, self.smaller = block, smaller

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The smaller map, (B, D, ceil(H / 2), ceil(W / 2)).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), which conditions the block.
        """
        down: Tensor = self.block(x, embedding, self.smaller)
        return down


class NearestUp(nn.Module):
    """``double``, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """The larger map, (B, D, *size).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), ignored.
            size: height and width of the output, at most twice those of ``x``.
        """
        up: Tensor = self.conv(double(x, size))
        return up


class TransposedUp(nn.Module):
    """A transposed convolution with kernel 4 and stride 2: every output pixel depends on the same number of inputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """The larger map, (B, D, *size).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), ignored.
            size: height and width of the output, at most twice those of ``x``.
        """
        up: Tensor = self.conv(x)
        return up[:, :, : size[0], : size[1]]


class ResidualUp(nn.Module):
    """A residual block with upsampling of both branches: ``double`` (ADM) or another filter (NCSN++).

    Args:
        block: residual block from C to D channels.
        larger: the upsampling.
    """

    def __init__(self, block: ResidualBlock, larger: Upsample = double) -> None:
        super().__init__()
        self.block, self.larger = block, larger

    def forward(self, x: Tensor, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """The larger map, (B, D, *size).

        Args:
            x: (B, C, H, W).
            embedding: (B, E), which conditions the block.
            size: height and width of the output, at most twice those of ``x``.
        """
        up: Tensor = self.block(x, embedding, lambda h: self.larger(h, size))
        return up
