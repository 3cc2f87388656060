"""A residual MLP for 2D points and other small vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.networks.config import MLPConfig
from undiffuse.networks.layers import Embedding, linear
from undiffuse.networks.spec import NetworkSpec


class MLP(nn.Module):
    """See ``MLPConfig``; examples of any shape are flattened.

    Args:
        config: the configuration.
        spec: shape and conditions; any shape is supported.
    """

    def __init__(
        self,
        config: MLPConfig,
        spec: NetworkSpec,
    ) -> None:
        super().__init__()
        shape, output_factor = spec.shape, spec.output_factor
        self.out_shape = (output_factor * shape[0], *shape[1:])
        size = math.prod(shape)
        self.embedding = Embedding(config, config.width, config.width, spec.condition)
        self.stem = linear(size, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, config.dropout) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)
        if output_factor:
            self.head = linear(config.width, output_factor * size, zero=True)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition, evaluation: Evaluation = Evaluation()) -> Tensor:  # noqa: B008
        """F(x, c_noise, cond), (B, output_factor * shape[0], *shape[1:]).

        Args:
            x: (B, *shape).
            c_noise: (B,), time labels.
            cond: the network's condition.
            evaluation: solver inputs: a target time.
        """
        h = self._hidden(x, c_noise, cond, evaluation)
        with torch.autocast(h.device.type, enabled=False):  # the output is not rounded to bfloat16
            out: Tensor = self.head(F.silu(self.norm(h.to(self.head.weight.dtype))))
        return out.view(len(x), *self.out_shape)

    def features(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """The input of the last layer, (B, num_features), for classifiers.

        Args:
            x: (B, *shape).
            c_noise: (B,), time labels.
            cond: the network's condition.
        """
        h = self._hidden(x, c_noise, cond, Evaluation())
        with torch.autocast(h.device.type, enabled=False):
            return F.silu(self.norm(h.to(self.norm.weight.dtype)))

    @property
    def num_features(self) -> int:
        """Size of ``features``."""
        return self.stem.out_features

    def _hidden(self, x: Tensor, c_noise: Tensor, cond: Condition, evaluation: Evaluation) -> Tensor:
        """The output of the last block, (B, width)."""
        embedding = self.embedding(c_noise, cond, evaluation)
        h: Tensor = self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return h


class _Block(nn.Module):
    """h + linear(SiLU(linear(norm(h)) (1 + scale) + shift)), scale and shift from the embedding."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(width), linear(width, 2 * width)
        self.first, self.second = linear(width, width), linear(width, width, zero=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.embed(embedding).chunk(2, dim=1)
        inner = F.silu(self.first(self.norm(h)) * (1 + scale) + shift)
        out: Tensor = self.second(self.dropout(inner))
        return h + out
