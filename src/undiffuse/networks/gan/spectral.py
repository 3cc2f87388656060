"""Spectral normalisation: weights divided by their largest singular value, so that a layer is 1-Lipschitz.

With W the weight as a matrix (out, in) and u a unit vector of its rows, power iteration takes v = W^T u / |W^T u| and
u <- W v / |W v|; then u^T W v = |W^T u| approaches the largest singular value from below. One iteration a training
step is enough, for u is kept, in a buffer: it is saved with the weights, so a resumed run goes on exactly. u counts as
a constant in the gradient, which is then that of sigma itself, u v^T, once u has settled.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", arXiv:1802.05957, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Power iterations when a layer is made, so that training starts from a fair estimate.
FIRST_ITERATIONS = 15
_EPS = 1e-12


def largest_singular_value(weight: Tensor, u: Tensor) -> Tensor:
    """|W^T u|, () in float32 or better; at most the largest singular value, and equal to it where u is its vector.

    Args:
        weight: (out, ...), a matrix once its other axes are joined.
        u: (out,), a unit vector.
    """
    with torch.autocast(weight.device.type, enabled=False):
        sigma: Tensor = torch.linalg.vector_norm(weight.flatten(1).t() @ u)
    return sigma.clamp(min=_EPS)


@torch.no_grad()
def power_iteration(weight: Tensor, u: Tensor, count: int = 1) -> Tensor:
    """u after ``count`` rounds of v = W^T u, u = W v, each scaled to length 1.

    Args:
        weight: (out, ...), a matrix once its other axes are joined.
        u: (out,), a unit vector.
        count: rounds, at least 0.
    Returns:
        (out,).
    """
    matrix = weight.flatten(1)
    with torch.autocast(weight.device.type, enabled=False):
        for _ in range(count):
            v = F.normalize(matrix.t() @ u, dim=0, eps=_EPS)
            u = F.normalize(matrix @ v, dim=0, eps=_EPS)
    return u


class _Spectral(nn.Module):
    """What the layers below share: ``weight``, the buffer ``u``, and the divided weight."""

    weight: Tensor
    u: Tensor

    def start(self) -> None:
        """Make the buffer, from torch's global generator."""
        u = F.normalize(torch.randn(len(self.weight)), dim=0)
        self.register_buffer("u", power_iteration(self.weight, u, FIRST_ITERATIONS))

    def divided(self) -> Tensor:
        """W / sigma; in training u moves by one iteration first."""
        if self.training:
            self.u.copy_(power_iteration(self.weight, self.u))
        return self.weight / largest_singular_value(self.weight, self.u.clone())


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution with a spectrally normalised kernel, as a matrix (out, in * height * width).

    Args:
        channels: of its input, C.
        out_channels: of its output.
        kernel: side of the filter.
        stride: step between its places.
        padding: zeros at each side.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels, out_channels, kernel, stride, padding)
        self.start()

    def forward(self, x: Tensor) -> Tensor:
        """The convolved map; in training a power iteration comes first.

        Args:
            x: (B, C, H, W).
        """
        return F.conv2d(x, self.divided(), self.bias, self.stride, self.padding)


class SpectralLinear(_Spectral, nn.Linear):
    """A dense layer with a spectrally normalised matrix.

    Args:
        channels: inputs, C.
        out_channels: outputs.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels)
        self.start()

    def forward(self, x: Tensor) -> Tensor:
        """The product; in training a power iteration comes first.

        Args:
            x: (..., C).
        """
        return F.linear(x, self.divided(), self.bias)


class SpectralEmbedding(_Spectral, nn.Embedding):
    """A table of vectors, spectrally normalised as a matrix (entries, width).

    Args:
        num_rows: entries of the table.
        width: of a vector.
    """

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__(num_rows, width)
        self.start()

    def forward(self, index: Tensor) -> Tensor:
        """Vectors (..., width) of the table; in training a power iteration comes first.

        Args:
            index: (...), integers in [0, num_rows).
        """
        return F.embedding(index, self.divided())
