"""Orientation of an image, determined in the same way for its header and its pixels.

EXIF takes precedence over XMP; in a PNG the eXIf chunk, at any position, takes precedence over the EXIF that
ImageMagick writes as text. The first value from 1 to 8 is used. Unreadable metadata is ignored and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

from undiffuse.data.readers.decoding.png import Png

_TAG = 0x0112
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT, SIDEWAYS = 1, (5, 6, 7, 8)  # the latter exchange rows and columns


def orientation_of(image: Image.Image, png: Png | None) -> tuple[int, bool]:
    """EXIF orientation, 1 (upright) to 8, and whether any EXIF could not be read.

    Args:
        image: opened, loaded or not.
        png: the parsed file if it is a PNG.
    """
    values = list(_stored_values(image, png))
    found = next((value for value in values if value in _ORIENTATIONS or value == UPRIGHT), UPRIGHT)
    return found, None in values or (png is not None and "eXIf" in png.broken)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate the image upright; a TIFF is returned unchanged, because Pillow rotates it itself."""
    turn = None if image.format == "TIFF" else _ORIENTATIONS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _stored_values(image: Image.Image, png: Png | None) -> Iterator[int | None]:
    """The orientation in each kind of metadata; ``None`` for unreadable EXIF."""
    if png is not None:
        yield from map(_of_exif, png.exif)
    else:
        try:
            exif = image.getexif()
            yield None if len(image.info.get("exif") or b"") > 8 and not exif else _number(exif.get(_TAG))
        except Exception:  # errors of a dozen types, as for pixels
            yield None
    yield _of_xmp(image.info.get("xmp") if png is None else png.xmp)


def _of_exif(content: bytes) -> int | None:
    exif = Image.Exif()
    try:
        exif.load(content)
        return _number(exif.get(_TAG)) if exif else None
    except Exception:
        return None


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _of_xmp(content: Any) -> int:
    match = _XMP.search(content.encode() if isinstance(content, str) else content or b"")
    return int(match[1]) if match else 0
