"""Models that ship with the package, each a folder like any saved model: trained by this project, read without network.

A folder holds ``config.json``, which has a section ``card`` (see ``zoo.card``), ``model.safetensors`` in bfloat16,
``model_card.md`` and ``samples.png``. Made by ``tools/make_zoo_model.py``.
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
    """The folder of the bundled model of this name.

    Raises:
        UsageError: no such model; the nearest is named.
    """
    folders = bundled_models()
    if name not in folders:
        raise UsageError(f"no bundled model {name!r}; {nearest(name, folders)}")
    return folders[name]
