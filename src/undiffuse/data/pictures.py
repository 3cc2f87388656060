"""One picture file, of any mode and size, to an upright 8-bit grey or RGB picture of the training size.

What is done, in order: the header is checked (a decompression bomb is refused before anything is decoded), the first
frame is decoded, turned as its EXIF orientation says, brought to 8 bits (16-bit levels are divided by 257, not
clipped), laid on the background where it is transparent, converted to RGB or grey, and resized with an antialiased
filter.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from undiffuse.errors import UsageError

Colour = int | tuple[int, int, int]

_ORIENTATION = 0x0112  # the EXIF tag; its values 5..8 exchange rows and columns
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "TGA")
_REDUCING_GAP = 3.0  # Pillow's box reduction before the filter, down to three times the target: not told apart by eye


class Header(NamedTuple):
    """What is known of a picture before it is decoded; the size is that of the upright picture."""

    height: int
    width: int
    grey: bool


def read_header(source: Path | bytes, background: Colour = 255, title: str = "") -> Header:
    """Size and kind of a picture file, decoding nothing.

    Args:
        source: where the file lies, or its content.
        background: grey level or colour under transparent pixels.
        title: what to call it in messages; the path where there is one.

    Raises:
        UsageError: empty, not a picture, unreadable, or a decompression bomb; the message begins with the title.
    """
    with _opened(source, title) as image:
        width, height = _upright_size(image)
        colourful_ground = isinstance(background, tuple) and len(set(background)) > 1 and image.has_transparency_data
        grey = (image.mode in _GREY_MODES or image.mode.startswith("I;")) and not colourful_ground
        return Header(height, width, grey)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the EXIF orientation is undone."""
    # A PNG is asked only where its header has EXIF: Pillow would decode all of it to look behind the pixels.
    has_exif = image.format != "PNG" or "exif" in image.info
    turned = has_exif and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    stored = image.size
    if image.format == "TIFF":  # newer versions of Pillow have counted the turn already, older ones have not
        tags: Any = getattr(image, "tag_v2", {})
        stored = (tags.get(_TIFF_WIDTH, stored[0]), tags.get(_TIFF_HEIGHT, stored[1]))
    return (stored[1], stored[0]) if turned else stored


def read_picture(source: Path | bytes, background: Colour = 255, title: str = "") -> Image.Image:
    """The upright picture, 8-bit, in mode ``L`` or ``RGB``.

    Args:
        source, background, title: as for ``read_header``.

    Raises:
        UsageError: as ``read_header``, and a file that is damaged or cut short.
    """
    with _opened(source, title) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _flat(_eight_bit(upright), background)


@contextlib.contextmanager
def _opened(source: Path | bytes, title: str) -> Iterator[Image.Image]:
    title = title or (str(source) if isinstance(source, Path) else "a picture in memory")
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise UsageError(f"{title}: the file is empty (0 bytes)")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            _refuse_bomb(image)
            yield image
    except UsageError as error:
        message = str(error)
        raise UsageError(message if message.startswith(title) else f"{title}: {message}") from None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{title}: not a picture that can be read, whatever its name says") from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"{title}: too large to be decoded safely ({error})") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})" if error.strerror else f"damaged or cut short ({error})"
        raise UsageError(f"{title}: {what}") from None
    except Exception as error:  # Pillow's decoders meet damage with errors of a dozen types
        raise UsageError(f"{title}: damaged or cut short ({error or type(error).__name__})") from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that this Pillow reads: it would hand PostScript, whatever its name, to an interpreter."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _refuse_bomb(image: Image.Image) -> None:
    """Pillow only warns between its limit and twice that; here the limit is one."""
    limit = Image.MAX_IMAGE_PIXELS
    width, height = image.size
    if limit is not None and width * height > limit:
        raise UsageError(f"{width}x{height} pixels are more than the {limit} that are decoded safely; make it smaller")


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's remarks about odd files off the terminal; what stops a file from being read is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        return Image.fromarray(_float_levels(np.asarray(image)))
    if image.mode == "I" or image.mode.startswith("I;"):
        return Image.fromarray(_sixteen_bit_levels(np.asarray(image)))
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    return image


def _sixteen_bit_levels(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if levels.min() < 0 or levels.max() > 65535:
        raise UsageError(f"levels {levels.min()}..{levels.max()} are outside 0..65535; expected 16 bits at most")
    return np.asarray(np.rint(levels / 257), dtype=np.uint8)


def _float_levels(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Floating-point levels are taken for 0..1 where none is above 1, else for 0..255."""
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= 255):
        raise UsageError(f"floating-point levels {low:g}..{high:g} are outside 0..1 and 0..255; convert the file")
    return np.asarray(np.rint(levels * (255 if high <= 1 else 1)), dtype=np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return cast(Image.Image, ImageCms.applyTransform(image, ImageCms.buildTransform(lab, rgb, "LAB", "RGB")))


def _flat(image: Image.Image, background: Colour) -> Image.Image:
    """Without transparency, in mode ``L`` where the picture and what shows through are grey, else ``RGB``."""
    ground = rgb_of(background)
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        layer = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), layer)
        grey = grey and len(set(ground)) == 1
    return image.convert("RGB").convert("L") if grey else image.convert("RGB")


def rgb_of(colour: Colour) -> tuple[int, int, int]:
    """A grey level as (level, level, level); a colour as it is."""
    return (colour, colour, colour) if isinstance(colour, int) else colour


def fit_picture(
    image: Image.Image, size: tuple[int, int], fit: str = "crop", upscale: bool = False, background: Colour = 0
) -> Image.Image:
    """The picture at the training size, the proportions kept, by an antialiased Lanczos filter.

    Args:
        image: mode ``L`` or ``RGB``.
        size: (height, width).
        fit: ``crop`` cuts the largest centred part of the target's proportions; ``letterbox`` keeps all of it and
            fills the bars with ``background``.
        upscale: allow enlarging.

    Raises:
        UsageError: ``crop`` would have to enlarge and may not.
    """
    if fit == "letterbox":
        return _letterbox(image, size, upscale, background)
    height, width = size
    scale = max(width / image.width, height / image.height)
    if scale > 1 and not upscale:
        side = min(image.width, image.height)
        raise UsageError(
            f"the picture of {image.height}x{image.width} (height x width) is smaller than the training size "
            f"{height}x{width}; take size={side} or less, or allow enlarging with upscale=true"
        )
    if scale == 1:  # whole pixels, so that nothing is resampled
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    across, down = width / scale, height / scale
    x, y = (image.width - across) / 2, (image.height - down) / 2
    box = (max(x, 0.0), max(y, 0.0), min(x + across, image.width), min(y + down, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)


def _letterbox(image: Image.Image, size: tuple[int, int], upscale: bool, background: Colour) -> Image.Image:
    height, width = size
    scale = min(width / image.width, height / image.height)
    if not upscale:
        scale = min(scale, 1.0)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if inner != image.size:
        image = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    ground = rgb_of(background)
    fill = ground if image.mode == "RGB" else Image.new("RGB", (1, 1), ground).convert("L").getpixel((0, 0))
    canvas = Image.new(image.mode, (width, height), cast(Any, fill))
    canvas.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """The picture in grey (1) or RGB (3)."""
    return image.convert("L" if channels == 1 else "RGB")


def to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(C, H, W) uint8 of a picture in mode ``L`` or ``RGB``."""
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    """The picture of a (1, H, W) or (3, H, W) uint8 array."""
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def automatic_side(shorter_sides: npt.NDArray[Any]) -> int:
    """A training size for pictures of different sizes: a multiple of 8, at most 64, that half of them reach."""
    sides = np.sort(shorter_sides)
    median = int(sides[(len(sides) - 1) // 2])
    return median if median < 8 else 8 * math.floor(min(64, median) / 8)
