"""What a user wants of one sample, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What one sample is conditioned on.

    Args:
        class_name: None for no class in particular.
        negative: what guidance is to lead away from; None for the unconditional model.
    """

    class_name: str | None = None
    negative: Prompt | None = None
