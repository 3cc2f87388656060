"""Decode one image file of any mode and size to an upright 8-bit grey or RGB image of the training size.

Steps, in order: the header is checked (a decompression bomb raises before decoding), the first frame is decoded at full
bit depth, converted to sRGB according to its colour profile, rounded to 8 bits, rotated upright, composited on the
background where it is transparent, converted to RGB or grey, and resized with an antialiased filter.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from undiffuse.data.readers.decoding.colour import to_srgb
from undiffuse.data.readers.decoding.depth import HighDepth, read_levels
from undiffuse.data.readers.decoding.notes import HIGH_DEPTH, TRANSPARENT
from undiffuse.data.readers.decoding.opening import ImageFile, open_image
from undiffuse.data.readers.decoding.orientation import SIDEWAYS, UPRIGHT, orientation_of, upright
from undiffuse.errors import UsageError

Colour = int | tuple[int, int, int]

#: Version of the decoder, incremented whenever a file decodes to other pixels than before; it invalidates the cache.
DECODER_VERSION = 2

BROKEN_EXIF = "with EXIF that cannot be read, skipped"
FRAMES = "of several frames, of which the first is read"
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})
_GREY_PNG = (0, 4)  # colour types
_SMALLEST = 8  # smallest sensible side of a training image, in pixels
_REDUCING_GAP = 3.0  # Pillow's box reduction before the filter, down to three times the target size; not visible


class Header(NamedTuple):
    """Size and kind of an image, known before decoding; the size is that of the upright image."""

    height: int
    width: int
    grey: bool


class Decoded(NamedTuple):
    """A decoded image file.

    Attributes:
        image: upright, in mode ``L`` or ``RGB``.
        mode: Pillow mode of the file.
        rotated: whether its stored orientation is not upright.
        notes: what the user should know about the decoding, worded to follow "12 images".
    """

    image: Image.Image
    mode: str
    rotated: bool
    notes: tuple[str, ...]


def read_header(source: Path | bytes, background: Colour = 255, title: str = "") -> Header:
    """Size and kind of an image file, without decoding.

    Args:
        source: path of the file, or its content.
        background: grey level or colour under transparent pixels.
        title: name of the file in messages; defaults to its path.

    Raises:
        UsageError: empty, not an image, unreadable, or a decompression bomb; the message starts with the title.
    """
    with open_image(source, title, header_only=True) as found:
        width, height = _upright_size(found)
        is_background_coloured = isinstance(background, tuple) and len(set(background)) > 1
        grey = _is_grey(found) and not (is_background_coloured and found.image.has_transparency_data)
        return Header(height, width, grey)


def _is_grey(found: ImageFile) -> bool:
    if found.png is not None and found.png.depth == 16:  # Pillow reports grey with alpha as RGBA
        return found.png.colour_type in _GREY_PNG
    return found.image.mode in _GREY_MODES or found.image.mode.startswith("I;")


def _upright_size(found: ImageFile) -> tuple[int, int]:
    """(width, height) of the upright image."""
    stored = found.image.size
    if found.image.format == "TIFF":  # newer versions of Pillow already swap the sides, older ones do not
        tags: Any = getattr(found.image, "tag_v2", {})
        stored = (tags.get(_TIFF_WIDTH, stored[0]), tags.get(_TIFF_HEIGHT, stored[1]))
    rotated = orientation_of(found.image, found.png)[0] in SIDEWAYS
    return (stored[1], stored[0]) if rotated else stored


def read_image(source: Path | bytes, background: Colour = 255, title: str = "") -> Image.Image:
    """The upright image, 8-bit, in sRGB, in mode ``L`` or ``RGB``.

    Args:
        source, background, title: see ``read_header``.

    Raises:
        UsageError: see ``decode_image``.
    """
    return decode_image(source, background, title).image


def decode_image(source: Path | bytes, background: Colour = 255, title: str = "") -> Decoded:
    """Like ``read_image``, with the stored mode, orientation and notes.

    Args:
        source, background, title: see ``read_header``.

    Raises:
        UsageError: see ``read_header``; also for a corrupt or truncated file, or levels of unknown meaning.
    """
    with open_image(source, title, header_only=False) as found:
        image, mode, several = found.image, found.image.mode, _has_frames(found)
        orientation, broken_exif = orientation_of(image, found.png)
        levels = read_levels(image, found.reopened, found.png)
        profile, described = found.icc_profile()
        converted, note = to_srgb(levels, profile)
        stored = (
            TRANSPARENT if _has_transparent_pixels(converted) else "",
            HIGH_DEPTH if isinstance(levels, HighDepth) else "",
        )
        flat = _flatten(upright(converted, orientation), background)
        exif = BROKEN_EXIF if broken_exif or found.broken_exif else ""
        notes = (*stored, described, note, exif, FRAMES if several else "")
        return Decoded(flat, mode, orientation != UPRIGHT, tuple(filter(None, notes)))


def _has_frames(found: ImageFile) -> bool:
    """Whether the file has several frames; additional frames of a JPEG are previews and gain maps and do not count."""
    if found.png is not None:
        return found.png.num_frames > 1
    return found.image.format not in ("JPEG", "MPO") and getattr(found.image, "is_animated", False)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about unusual files; problems that prevent decoding raise errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _has_transparent_pixels(image: Image.Image) -> bool:
    """Whether any pixel is not opaque; many files store an alpha channel that is 255 everywhere."""
    if not image.has_transparency_data:
        return False
    layer = image if image.mode in ("LA", "RGBA") else image.convert("LA" if image.mode == "La" else "RGBA")
    return cast(int, layer.getchannel("A").getextrema()[0]) < 255


def _flatten(image: Image.Image, background: Colour) -> Image.Image:
    """Composite on the background; mode ``L`` if the image and the visible background are grey, else ``RGB``."""
    ground = as_rgb(background)
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        layer = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), layer)
        grey = grey and len(set(ground)) == 1
    return image.convert("RGB").convert("L") if grey else image.convert("RGB")


def as_rgb(colour: Colour) -> tuple[int, int, int]:
    """A grey level as (level, level, level); a colour unchanged."""
    return (colour, colour, colour) if isinstance(colour, int) else colour


def fit_image(
    image: Image.Image, size: tuple[int, int], fit: str = "crop", upscale: bool = False, background: Colour = 0
) -> Image.Image:
    """Resize an image to the training size with an antialiased Lanczos filter, preserving the aspect ratio.

    Args:
        image: mode ``L`` or ``RGB``.
        size: (height, width).
        fit: ``crop`` takes the largest central crop of the target's aspect ratio; ``letterbox`` keeps the whole image
            and fills the bars with ``background``.
        upscale: allow enlarging.

    Raises:
        UsageError: ``crop`` would have to enlarge and ``upscale`` is false.
    """
    if fit == "letterbox":
        return _letterbox(image, size, upscale, background)
    height, width = size
    scale = max(width / image.width, height / image.height)
    if scale > 1 and not upscale:
        side = min(image.width, image.height)
        raise UsageError(
            f"the image of {image.height}x{image.width} (height x width) is smaller than the training size "
            f"{height}x{width}; take data.size={side} or less, or allow enlarging with data.upscale=true"
        )
    if scale == 1:  # crop on whole pixels, without resampling
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    crop_width, crop_height = width / scale, height / scale
    x, y = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    box = (max(x, 0.0), max(y, 0.0), min(x + crop_width, image.width), min(y + crop_height, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)


def _letterbox(image: Image.Image, size: tuple[int, int], upscale: bool, background: Colour) -> Image.Image:
    height, width = size
    scale = min(width / image.width, height / image.height)
    if not upscale:
        scale = min(scale, 1.0)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if inner != image.size:
        image = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    ground = as_rgb(background)
    fill = ground if image.mode == "RGB" else Image.new("RGB", (1, 1), ground).convert("L").getpixel((0, 0))
    letterboxed = Image.new(image.mode, (width, height), cast(Any, fill))
    letterboxed.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return letterboxed


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to grey (1 channel) or RGB (3 channels)."""
    return image.convert("L" if channels == 1 else "RGB")


def to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert an image in mode ``L`` or ``RGB`` to a (C, H, W) uint8 array."""
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    """Convert a (1, H, W) or (3, H, W) uint8 array to an image."""
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def default_side(shorter_sides: npt.NDArray[Any]) -> int:
    """Default training size for images of different sizes: the largest multiple of 8 up to 64 that half of them reach.

    Images with a side below 8 pixels (stray strips and icons) do not count unless all are that small.
    """
    sides = np.sort(shorter_sides)
    count_noun = sides[sides >= _SMALLEST] if sides[-1] >= _SMALLEST else sides
    median = int(count_noun[len(count_noun) // 2])  # the upper median: half of the images reach it
    return median if median < _SMALLEST else 8 * math.floor(min(64, median) / 8)
