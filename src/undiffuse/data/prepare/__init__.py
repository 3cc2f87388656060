"""Preprocess the images of any source once for training: decode, resize, remove duplicates, and write one zip archive.

The archive has the format of the StyleGAN and EDM tools: ``00000/img00000000.png`` and so on, not compressed further,
with ``dataset.json``; besides, ``metadata.jsonl`` has the captions, ``hashes.bin`` the hashes of the original images,
and ``manifest.json`` the settings and statistics. It depends only on the source and the settings: not on the time, the
number of workers, or interruptions.

Importing this package is cheap; the names below are imported lazily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.registry import resolve

if TYPE_CHECKING:
    from undiffuse.data.prepare.run import prepare
    from undiffuse.data.prepare.settings import PrepareSettings

__all__ = ["PrepareSettings", "prepare"]

_LAZY = {
    "PrepareSettings": "undiffuse.data.prepare.settings:PrepareSettings",
    "prepare": "undiffuse.data.prepare.run:prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY[name])
