"""Networks: ``forward(x, c_noise, cond)``, entries of one registry, built from a configuration and the data's shape.

This module and ``networks.config`` import no torch; the networks themselves come in when one is built.
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

#: Models, or ``module:Class`` of one that is defined next to its network.
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
    """The network of ``config`` for examples of this shape, initialised from torch's global random state.

    Args:
        config: of an entry of ``NETWORK_CONFIGS``.
        shape: one example's shape, (C, H, W) or (D,).
        condition: what it is conditioned on; it ignores all other fields.
        output_factor: output channels for each input channel; 2 where the variance is learned.
    Returns:
        A module ``forward(x (B, *shape), c_noise (B,), cond) -> (B, output_factor * shape[0], *shape[1:])``.
    Raises:
        UsageError: an unknown name, or a shape that this network cannot serve.
    Example:
        >>> network = build_network(UNetConfig(channels=8, multipliers=(1, 2)), (1, 8, 8))
        >>> network.num_levels
        2
    """
    make = lookup(NETWORKS, config.name, "network")
    network: nn.Module = make(config, NetworkSpec(shape, condition, output_factor))
    return network
