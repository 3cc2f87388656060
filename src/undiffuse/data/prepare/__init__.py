"""Images of any source made ready for training once: decoded, fitted, checked for duplicates, and put into one zip.

The archive is of the form that the StyleGAN and EDM tools write: ``00000/img00000000.png`` and so on, not compressed
any further, with ``dataset.json``; next to it ``metadata.jsonl`` has the captions, ``hashes.bin`` the hashes of the
images as they were found, and ``manifest.json`` tells what was done. It depends on the source and the settings
alone: on no clock, on no number of workers, and not on whether it was made in one run.

Importing this package costs nothing; what is named below is imported when it is first asked for.
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
