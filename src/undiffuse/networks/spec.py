"""Shapes and conditions of a network, apart from its configuration. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from undiffuse.core.condition_spec import UNCONDITIONAL, ConditionSpec


@dataclass(frozen=True)
class NetworkSpec:
    """Input and output specification of a network.

    Args:
        shape: shape of one example, (C, H, W) or (D,).
        condition: the conditions of the network.
        output_factor: output channels per input channel; 2 for a learned variance, 0 for a network without output
            layers, which only computes ``features``.
    """

    shape: tuple[int, ...]
    condition: ConditionSpec = UNCONDITIONAL
    output_factor: int = 1
