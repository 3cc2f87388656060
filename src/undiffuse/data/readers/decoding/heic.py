"""HEIC images, as written by phones: read if pi-heif is installed. Pillow and pi-heif are imported lazily.

pi-heif only decodes, and its wheels are under the LGPL. The wheels of pillow-heif contain an encoder under the GPL, as
does the JPEG XL plugin, so neither is used here.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

ENDINGS = frozenset({"heic", "heif", "hif"})
ADVICE = "pip install 'undiffuse[heic]' reads it, or convert to PNG"
FORMAT = "HEIF"  # Pillow's format name
_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


@functools.cache
def is_installed() -> bool:
    """Whether HEIC files can be read."""
    return importlib.util.find_spec("pi_heif") is not None


def version() -> str:
    """The version of the decoder; empty if it is not installed."""
    return importlib.metadata.version("pi-heif") if is_installed() else ""


def is_heic(start: bytes) -> bool:
    """Whether a file with these first bytes is HEIC."""
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS


def register() -> None:
    """Register the format in Pillow."""
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False)
