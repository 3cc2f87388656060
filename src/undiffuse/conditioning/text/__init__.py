"""Text encoders: a registry of configurations, and the function that builds the encoder of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from undiffuse.conditioning.text.config import FrozenTextConfig, LearnedTextConfig, TextConfig
from undiffuse.config import ComponentConfig
from undiffuse.registry import lookup

if TYPE_CHECKING:
    from undiffuse.conditioning.text.encoder import TextEncoder

__all__ = [
    "TEXT_ENCODERS",
    "TEXT_ENCODER_CONFIGS",
    "FrozenTextConfig",
    "LearnedTextConfig",
    "TextConfig",
    "build_text_encoder",
]

TEXT_ENCODERS = {
    "frozen": "undiffuse.conditioning.text.frozen:FrozenTextEncoder",
    "learned": "undiffuse.conditioning.text.learned:LearnedTextEncoder",
}

#: Configuration classes, which do not import torch.
TEXT_ENCODER_CONFIGS: dict[str, type[ComponentConfig] | str] = {
    "frozen": FrozenTextConfig,
    "learned": LearnedTextConfig,
}


def build_text_encoder(config: ComponentConfig) -> TextEncoder:
    """Build the encoder of a configuration whose data-dependent options are resolved.

    Args:
        config: an entry of ``TEXT_ENCODER_CONFIGS``.
    Raises:
        UsageError: an unknown name, or a configuration without a vocabulary.
    """
    encoder: TextEncoder = lookup(TEXT_ENCODERS, config.name, "text encoder")(config)
    return encoder
