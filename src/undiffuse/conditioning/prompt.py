"""The prompt of one sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What one sample is conditioned on.

    Args:
        class_name: None for no specific class.
        text: with the syntax of ``text.prompt_syntax``; None for no text.
        negative: negative prompt for guidance; None for the unconditional model.
    """

    class_name: str | None = None
    text: str | None = None
    negative: Prompt | None = None
