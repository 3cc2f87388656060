"""HEIC, as phones write it: read where pi-heif is installed. Imports neither Pillow nor pi-heif before it is met.

pi-heif only decodes, and its wheels are under the LGPL; those of pillow-heif hold an encoder under the GPL, as does the
plugin for JPEG XL, and so neither is asked for here.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

ENDINGS = frozenset({"heic", "heif", "hif"})
ADVICE = "pip install 'undiffuse[heic]' reads it, or convert to PNG"
FORMAT = "HEIF"  # Pillow's name
_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


@functools.cache
def is_installed() -> bool:
    """Whether HEIC files are read here."""
    return importlib.util.find_spec("pi_heif") is not None


def version() -> str:
    """The version of what decodes them; empty where they are not read."""
    return importlib.metadata.version("pi-heif") if is_installed() else ""


def is_heic(start: bytes) -> bool:
    """Whether a file that begins so is one."""
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS


def register() -> None:
    """Tell Pillow of the format."""
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False)
