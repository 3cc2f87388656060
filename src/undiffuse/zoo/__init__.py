"""Models that ship with the package, each a folder like any saved model."""

from __future__ import annotations

from pathlib import Path


def bundled_models() -> dict[str, Path]:
    """Names and folders of the bundled models."""
    here = Path(__file__).parent
    return {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
