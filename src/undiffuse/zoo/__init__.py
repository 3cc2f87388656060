"""Bundled models: trained by this project, shipped with the package, each a folder like any saved model.

A folder holds ``config.json``, which has a section ``card`` (see ``zoo.card``), ``model.safetensors`` in bfloat16,
``model_card.md`` and ``samples.png``. ``tools/make_zoo_model.py`` creates it.
"""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.registry import nearest

FOLDER = Path(__file__).parent


def bundled_models() -> dict[str, Path]:
    """Names and folders of the bundled models."""
    return {path.parent.name: path.parent for path in sorted(FOLDER.glob("[!.]*/config.json"))}


def bundled_folder(name: str) -> Path:
    """The folder of the bundled model ``name``.

    Raises:
        UsageError: no such model; the message suggests the closest name.
    """
    folders = bundled_models()
    if name not in folders:
        raise UsageError(f"no bundled model {name!r}; {nearest(name, folders)}")
    return folders[name]
