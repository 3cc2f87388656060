"""What is wanted of one sample, in a user's words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One sample's wish.

    Args:
        class_name: None for no class in particular.
        negative: what guidance is to lead away from; None for what the model says without being told.
    """

    class_name: str | None = None
    negative: Prompt | None = None
