"""What a network is built for, apart from its own configuration. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from undiffuse.core.condition_spec import UNCONDITIONAL, ConditionSpec


@dataclass(frozen=True)
class NetworkSpec:
    """The task of a network.

    Args:
        shape: of one example, (C, H, W) or (D,).
        condition: what it is conditioned on.
        output_factor: output channels for each input channel; 2 where the variance is learned.
    """

    shape: tuple[int, ...]
    condition: ConditionSpec = UNCONDITIONAL
    output_factor: int = 1
