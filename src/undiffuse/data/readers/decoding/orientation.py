"""Which way up an image is, asked once for its header and its pixels alike.

EXIF is believed first, in a PNG that of its eXIf chunk, wherever it stands, before that which ImageMagick writes as
text; then XMP. The first that says a value of 1 to 8 decides. What cannot be read says nothing, and is reported.
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
    """1 (upright) to 8 as EXIF counts them, and whether some EXIF could not be read.

    Args:
        image: just opened, or loaded.
        png: the chunks of the file, where it is a PNG.
    """
    said = list(_said(image, png))
    found = next((value for value in said if value in _ORIENTATIONS or value == UPRIGHT), UPRIGHT)
    return found, None in said or (png is not None and "eXIf" in png.broken)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned; a TIFF, which Pillow turns itself, as it is."""
    turn = None if image.format == "TIFF" else _ORIENTATIONS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _said(image: Image.Image, png: Png | None) -> Iterator[int | None]:
    """What each place says, ``None`` where it cannot be read."""
    if png is not None:
        yield from map(_of_exif, png.exif)
    else:
        try:
            exif = image.getexif()
            yield None if len(image.info.get("exif") or b"") > 8 and not exif else _number(exif.get(_TAG))
        except Exception:  # of a dozen types, as with pixels
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
