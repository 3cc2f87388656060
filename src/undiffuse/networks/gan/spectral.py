"""Spectral normalisation: weights divided by their largest singular value, so that a layer is 1-Lipschitz.

With W the weight as a matrix (out, in) and u a unit vector of size (out,), power iteration computes v = W^T u / |W^T u|
and u <- W v / |W v|; then u^T W v = |W^T u| converges to the largest singular value from below. One iteration per
training step is enough because u is stored in a buffer, which is saved with the weights, so that a resumed run is
identical. u is a constant in the gradient, which equals that of sigma, u v^T, once u has converged.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", arXiv:1802.05957, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Power iterations at initialisation, so that training starts with an accurate estimate.
FIRST_ITERATIONS = 15
_EPS = 1e-12


def largest_singular_value(weight: Tensor, u: Tensor) -> Tensor:
    """|W^T u|, () in float32 or higher precision: the largest singular value if u is its left singular vector.

    Args:
        weight: (out, ...), flattened to a matrix.
        u: (out,), a unit vector.
    """
    with torch.autocast(weight.device.type, enabled=False):
        sigma: Tensor = torch.linalg.vector_norm(weight.flatten(1).t() @ u)
    return sigma.clamp(min=_EPS)


@torch.no_grad()
def power_iteration(weight: Tensor, u: Tensor, count: int = 1) -> Tensor:
    """u after ``count`` iterations of v = W^T u, u = W v, each normalised to length 1.

    Args:
        weight: (out, ...), flattened to a matrix.
        u: (out,), a unit vector.
        count: number of iterations, at least 0.
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
    """Base class of the layers below, with ``weight`` and the buffer ``u``."""

    weight: Tensor
    u: Tensor

    def init_u(self) -> None:
        """Initialise the buffer, from torch's global generator."""
        u = F.normalize(torch.randn(len(self.weight)), dim=0)
        self.register_buffer("u", power_iteration(self.weight, u, FIRST_ITERATIONS))

    def normalized_weight(self) -> Tensor:
        """W / sigma; in training u is first updated by one iteration."""
        if self.training:
            self.u.copy_(power_iteration(self.weight, self.u))
        return self.weight / largest_singular_value(self.weight, self.u.clone())


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution with a spectrally normalised kernel, as a matrix (out, in * height * width).

    Args:
        channels: input channels, C.
        out_channels: output channels.
        kernel: kernel size.
        stride: stride of the convolution.
        padding: zero padding at each side.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels, out_channels, kernel, stride, padding)
        self.init_u()

    def forward(self, x: Tensor) -> Tensor:
        """The convolved map; in training after one power iteration.

        Args:
            x: (B, C, H, W).
        """
        return F.conv2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)


class SpectralLinear(_Spectral, nn.Linear):
    """A linear layer with a spectrally normalised weight.

    Args:
        channels: input channels, C.
        out_channels: output channels.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels)
        self.init_u()

    def forward(self, x: Tensor) -> Tensor:
        """The product; in training after one power iteration.

        Args:
            x: (..., C).
        """
        return F.linear(x, self.normalized_weight(), self.bias)


class SpectralEmbedding(_Spectral, nn.Embedding):
    """An embedding with a spectrally normalised weight (entries, width).

    Args:
        num_rows: number of entries.
        width: size of an embedding vector.
    """

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__(num_rows, width)
        self.init_u()

    def forward(self, index: Tensor) -> Tensor:
        """Embedding vectors (..., width); in training after one power iteration.

        Args:
            index: (...), integers in [0, num_rows).
        """
        return F.embedding(index, self.normalized_weight())
