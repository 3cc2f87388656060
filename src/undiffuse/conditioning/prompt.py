"""The prompt of one sample. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What one sample is conditioned on.

    Args:
        class_name: None for no specific class.
        text: with the syntax of ``prompt_syntax``; None for no text.
        negative: negative prompt for guidance; None for the unconditional model.
    """

    class_name: str | None = None
    text: str | None = None
    negative: Prompt | None = None


def no_text(text: str, class_names: Sequence[str]) -> str:
    """Message for a text prompt to a model without text.

    Args:
        text: the prompt.
        class_names: names of the model's classes.
    """
    shown = ", ".join(class_names[:4]) + (", ..." if len(class_names) > 4 else "")
    instead = f"it takes classes ({shown})" if class_names else "leave the prompt out"
    return f"this model was trained without captions, got prompt {text!r}; {instead}"
