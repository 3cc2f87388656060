"""Layer norms and initialisation shared by the transformers' blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.networks.layers import linear


class AdaptiveNorm(nn.Module):
    """norm(tokens) (1 + scale) + shift, scale and shift from the embedding (DiT's last layer).

    Args:
        channels: D.
        eps: added to the variance, above 0.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps, self.embed = eps, linear(channels, 2 * channels, zero=True)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """The normalised tokens, (B, L, D).

        Args:
            tokens: (B, L, D).
            embedding: (B, D), projected to scale and shift.
        """
        shift, scale = self.embed(embedding)[:, None].chunk(2, dim=2)
        return modulated(tokens, scale, shift, self.eps)


class PlainNorm(nn.Module):
    """An ordinary layer norm with the interface of ``AdaptiveNorm``.

    Args:
        channels: D.
        eps: added to the variance, above 0.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """The normalised tokens, (B, L, D).

        Args:
            tokens: (B, L, D).
            embedding: (B, D), ignored.
        """
        normed: Tensor = self.norm(tokens)
        return normed


def modulated(tokens: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Layer norm without affine parameters, then (1 + scale) and shift.

    Args:
        tokens: (B, L, D).
        scale: (B, 1, D).
        shift: (B, 1, D).
        eps: added to the variance, above 0.
    """
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=eps), 1 + scale)


def last_layer(channels: int, out_channels: int, *, zero: bool) -> nn.Linear:
    """The last layer of a branch; zero-initialised if the branch has no gate.

    Args:
        channels: input channels.
        out_channels: output channels.
        zero: initialise weights and biases with zeros.
    """
    return linear(channels, out_channels, zero=True) if zero else glorot(linear(channels, out_channels))


def glorot(layer: nn.Linear) -> nn.Linear:
    """Set Glorot-uniform weights and zero biases, the initialisation of vision transformers, in place."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
