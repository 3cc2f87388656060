"""Options of text encoders that depend on the training captions, resolved before training. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undiffuse.conditioning.text.config import TextConfig
from undiffuse.config import ComponentConfig
from undiffuse.errors import UsageError


def fitted_text(
    text: ComponentConfig | None, captions: Sequence[str] | None, instead: str = "set system.text=null"
) -> ComponentConfig | None:
    """The options of a text encoder with those resolved that depend on the captions.

    Args:
        text: an entry of ``TEXT_ENCODER_CONFIGS``; None for no text.
        captions: training captions, if the data has them.
        instead: advice for data without captions.
    Raises:
        UsageError: if the encoder needs captions and there are none.
    """
    if not isinstance(text, TextConfig) or text.resolved:
        return text
    if captions is None:
        raise UsageError(
            f"system.text={text.name} needs data with captions, and this data has none; add captions, or {instead}"
        )
    return text.fitted(captions)


def completed_text(text: ComponentConfig | None, earlier: Any) -> ComponentConfig | None:
    """The options of a text encoder with those that an earlier run resolved from its captions.

    Args:
        text: an entry of ``TEXT_ENCODER_CONFIGS``; None for no text.
        earlier: configuration of the run.
    """
    resolved = getattr(earlier, "text", None)
    if not isinstance(text, TextConfig) or not isinstance(resolved, type(text)) or text.resolved:
        return text
    return text.completed_from(resolved)
