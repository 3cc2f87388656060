"""Registry of networks ``forward(x, c_noise, cond)``, built from a configuration and the shape of the data.

This module and ``networks.config`` do not import torch; the modules of the networks are imported when one is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from undiffuse.config import ComponentConfig
from undiffuse.core.condition_spec import UNCONDITIONAL, ConditionSpec
from undiffuse.networks.config import MLPConfig, TransformerConfig, UNetConfig
from undiffuse.networks.spec import NetworkSpec
from undiffuse.registry import lookup

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "NETWORK_CONFIGS", "MLPConfig", "TransformerConfig", "UNetConfig", "build_network"]

NETWORKS = {
    "unet": "undiffuse.networks.unet:UNet",
    "transformer": "undiffuse.networks.transformer:Transformer",
    "mlp": "undiffuse.networks.mlp:MLP",
}

#: Configuration classes, or ``module:Class`` of a class that is defined next to its network.
NETWORK_CONFIGS: dict[str, type[ComponentConfig] | str] = {
    "unet": UNetConfig,
    "transformer": TransformerConfig,
    "mlp": MLPConfig,
}


def build_network(
    config: ComponentConfig,
    shape: tuple[int, ...],
    condition: ConditionSpec = UNCONDITIONAL,
    output_factor: int = 1,
) -> nn.Module:
    """Build the network of ``config`` for examples of this shape, initialised from torch's global random state.

    Args:
        config: configuration of a registered network.
        shape: shape of one example, (C, H, W) or (D,).
        condition: the conditions of the network; other fields of ``Condition`` are ignored.
        output_factor: output channels per input channel; 2 for a learned variance, 0 for a network without output
            layers, such as the decoder of a U-Net, which only computes ``features``.
    Returns:
        A module ``forward(x (B, *shape), c_noise (B,), cond) -> (B, output_factor * shape[0], *shape[1:])``, with the
        same arguments ``features(...) -> (B, num_features)``.
    Raises:
        UsageError: an unknown name, or a shape that the network does not support.
    Example:
        >>> network = build_network(UNetConfig(channels=8, multipliers=(1, 2)), (1, 8, 8))
        >>> network.num_levels
        2
    """
    network_class = lookup(NETWORKS, config.name, "network")
    network: nn.Module = network_class(config, NetworkSpec(shape, condition, output_factor))
    return network
