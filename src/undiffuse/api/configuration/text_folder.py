"""Place and files of the text encoder that a run's configuration names. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from undiffuse.conditioning.text.config import TextConfig
from undiffuse.training.config import RunConfig


def with_text_from(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with an absolute path of the text encoder.

    Args:
        config: of a run.
        folder: folder of relative paths.
    """
    text = getattr(config.system, "text", None)
    if not isinstance(text, TextConfig):
        return config
    system = config.system.model_copy(update={"text": text.relative_to(folder)})
    return config.model_copy(update={"system": system})


def check_text_encoder(config: RunConfig) -> None:
    """Check the files of the text encoder, if it has any.

    Args:
        config: of a run.
    Raises:
        UsageError: a file is missing or damaged.
    """
    text = getattr(config.system, "text", None)
    if isinstance(text, TextConfig):
        text.check_files()
