"""Heads on the pooled features of a network, such as the encoder half of a U-Net: classifiers and projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.config import ComponentConfig
from undiffuse.core.condition import Condition
from undiffuse.networks import build_network
from undiffuse.networks.layers import linear


class FeatureHead(nn.Module):
    """linear(norm(features(x, c_noise))) of a network's pooled features.

    Args:
        config: a registered network, built without its output layers.
        shape: shape of one example, (C, H, W) or (D,).
        size: number of outputs.
        zero: start the last layer at 0.
    """

    def __init__(self, config: ComponentConfig, shape: tuple[int, ...], size: int, *, zero: bool) -> None:
        super().__init__()
        self.network = build_network(config, shape, output_factor=0)
        features = int(self.network.num_features)  # type: ignore[arg-type]
        self.norm, self.head = nn.LayerNorm(features), linear(features, size, zero=zero)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """Outputs (B, size), not rounded to bfloat16.

        Args:
            x: (B, *shape).
            c_noise: (B,), time labels.
            cond: the network's condition.
        """
        features: Tensor = self.network.features(x, c_noise, cond)  # type: ignore[operator]
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.head(self.norm(features.to(self.head.weight.dtype)))
            return out


class Classifier(FeatureHead):
    """Logits of classes; the last layer starts at 0, so all classes start equally likely.

    Args:
        config: a registered network, built without its output layers.
        shape: shape of one example, (C, H, W) or (D,).
        num_classes: number of logits, at least 2.
    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.1 and appendix F.
    """

    def __init__(self, config: ComponentConfig, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(config, shape, num_classes, zero=True)
