"""Pixels of more than 8 bits per channel at full precision, and their black and white levels.

Pillow reads only the upper bytes of 16-bit colours. Reading the same file again with the other byte order yields the
lower bytes. The white level depends on the file type and never on the image, so that it is the same for a whole data
set: the largest value of the bit depth; 65535 for 32-bit integers, in which Pillow stores 16-bit levels; 1 for floats.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImagePalette

from undiffuse.data.readers.decoding.png import Png
from undiffuse.errors import UsageError

_WHITE_16 = 65535
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC = 258, 259, 262
_TIFF_PLANES, _TIFF_COLOURS, _TIFF_EXTRA, _TIFF_FORMAT = 284, 320, 338, 339
_MIN_IS_WHITE, _ASSOCIATED, _SIGNED, _SEPARATE = 0, 1, 2, 2
_NATIVE = "L" if sys.byteorder == "little" else "B"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class HighDepth(NamedTuple):
    """Pixel levels that do not fit into 8 bits.

    Attributes:
        levels: (H, W, C), from 0 to ``white``.
        white: the level of white and of full opacity.
        mode: Pillow mode of the same image with 8 bits.
    """

    levels: npt.NDArray[Any]
    white: float
    mode: str


def read_levels(image: Image.Image, reopen: Callable[[], Image.Image], png: Png | None) -> Image.Image | HighDepth:
    """Load an opened image: returned as it is if 8 bits are enough, else as levels.

    Args:
        image: opened but not loaded.
        reopen: opens the same file again.
        png: the parsed file if it is a PNG.

    Raises:
        UsageError: the black and white levels are unknown, or Pillow would decode the file wrongly.
    """
    if png is not None:
        return _of_png(image, reopen, png)
    if image.format == "TIFF":
        return _of_tiff(image, reopen)
    image.load()
    return _of_grey(image) if _is_high_depth_grey(image.mode) else image


def to_eight_bits(high: HighDepth) -> Image.Image:
    """Round each level to the nearest of 0..255."""
    return Image.fromarray(rounded(high).squeeze(-1) if high.mode == "L" else rounded(high), high.mode)


def rounded(high: HighDepth) -> npt.NDArray[np.uint8]:
    """(H, W, C): the levels rounded to 8 bits."""
    levels = high.levels
    if levels.dtype == np.uint16 and high.white == _WHITE_16:  # round(v / 257) in integer arithmetic
        return np.asarray((levels.astype(np.uint32) * 255 + 32895) >> 16, dtype=np.uint8)
    return np.asarray(np.rint(levels * (255 / high.white)), dtype=np.uint8)


def _is_high_depth_grey(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;")


def _of_grey(image: Image.Image, white: float = _WHITE_16) -> HighDepth:
    """Levels of a loaded single-channel image of more than 8 bits."""
    levels = np.asarray(image)
    if image.mode == "F":
        white = 1.0
        if not (levels.min() >= 0 and levels.max() <= white):
            raise UsageError(
                f"floating-point levels {levels.min():g}..{levels.max():g} are outside 0..1, black and white; "
                "divide them, or save the image with 8 or 16 bits"
            )
    elif levels.min() < 0 or levels.max() > white:
        raise UsageError(f"levels {levels.min()}..{levels.max()} are outside 0..{white:g}; save them with 16 bits")
    levels = levels if levels.dtype.kind == "f" else levels.astype(np.uint16)  # also converts to native byte order
    return HighDepth(levels[..., None], white, "L")


def _of_png(image: Image.Image, reopen: Callable[[], Image.Image], png: Png) -> Image.Image | HighDepth:
    transparent = image.info.pop("transparency", None) if png.depth != 8 and png.colour_type in (0, 2) else None
    if png.depth != 16:
        image.load()
        return image if transparent is None else _with_transparent(image, transparent, png.depth)
    high = _of_png_16(image, reopen, png.colour_type)
    return high if transparent is None else _with_alpha(high, transparent)


def _with_transparent(image: Image.Image, transparent: int, depth: int) -> Image.Image:
    """A grey image of less than 8 bits: Pillow rescales its levels to 0..255, but not always the transparent level."""
    grey = image.convert("L")
    grey.info["transparency"] = 255 * min(transparent, 1) if depth == 1 else transparent * (255 // (2**depth - 1))
    return grey


def _of_png_16(image: Image.Image, reopen: Callable[[], Image.Image], colour_type: int) -> HighDepth:
    if colour_type == 0:
        image.load()
        return _of_grey(image)
    if colour_type == 4:  # 4 bytes per pixel read as RGBA: 2 of the level, 2 of the alpha
        _retiled(image, lambda raw: "RGBA").load()
        both = np.asarray(image)
        return HighDepth(_joined(both[..., ::2], both[..., 1::2]), _WHITE_16, "LA")
    return _both_bytes(image, reopen)


def _with_alpha(high: HighDepth, transparent: int | tuple[int, ...]) -> HighDepth:
    """Add an alpha channel: transparent where the levels equal ``transparent``."""
    opaque = (high.levels != np.array(transparent, dtype=np.uint16)).any(axis=-1, keepdims=True)
    alpha = np.where(opaque, np.uint16(_WHITE_16), np.uint16(0))
    levels = np.concatenate([high.levels, alpha], axis=-1)
    return HighDepth(levels, high.white, _MODES[levels.shape[-1]])


def _of_tiff(image: Any, reopen: Callable[[], Image.Image]) -> Image.Image | HighDepth:
    tags = dict(image.tag_v2)
    bits, negative = max(tags.get(_TIFF_BITS, (1,))), tags.get(_TIFF_PHOTOMETRIC, 0) == _MIN_IS_WHITE
    _check_unsigned(tags, bits)
    _check_planes(tags, len(image.getbands()), bits)
    if image.mode in ("RGB", "RGBA", "CMYK") and bits == 16:
        associated = _ASSOCIATED in tags.get(_TIFF_EXTRA, ())
        high = _both_bytes(image, reopen, (lambda raw: raw.replace("RGBa;", "RGBA;")) if associated else str)
        return _unassociated(high) if associated else high
    if _TIFF_COLOURS in tags and image.mode in ("P", "PA"):
        image.palette = ImagePalette.raw("RGB;L", _palette(tags[_TIFF_COLOURS]))
    image.load()
    if not _is_high_depth_grey(image.mode):
        return cast(Image.Image, image)
    high = _of_grey(image, 2**bits - 1 if bits < 16 else _WHITE_16)
    return high._replace(levels=np.asarray(high.white - high.levels, high.levels.dtype)) if negative else high


def _palette(levels: tuple[int, ...]) -> bytes:
    """Round 16-bit palette entries to 8 bits; some programs write 8-bit entries, which stay unchanged."""
    found = np.array(levels)
    return (found if found.max() < 256 else (found * 255 + 32895) >> 16).astype(np.uint8).tobytes()


def _check_unsigned(tags: dict[int, Any], bits: int) -> None:
    if _SIGNED in tags.get(_TIFF_FORMAT, ()) and bits < 32:
        raise UsageError(
            f"a TIFF of signed {bits}-bit integers, whose black and white levels are unknown; save unsigned"
        )


def _check_planes(tags: dict[int, Any], num_bands: int, bits: int) -> None:
    """Check a planar TIFF: Pillow assumes 8 bits per value in separate planes and in single uncompressed ones."""
    valid = bits == 8 and (num_bands > 1 or tags.get(_TIFF_PHOTOMETRIC, 0) != _MIN_IS_WHITE)
    packed_single = num_bands == 1 and tags.get(_TIFF_COMPRESSION, 1) != 1
    if tags.get(_TIFF_PLANES, 1) == _SEPARATE and not (valid or packed_single):
        raise UsageError(
            f"a TIFF of {bits} bits in separate planes (PlanarConfiguration 2), which are supported only for 8 bits; "
            "save it interleaved, or as PNG"
        )


def _unassociated(high: HighDepth) -> HighDepth:
    """Convert premultiplied alpha to straight alpha."""
    alpha = high.levels[..., 3:].astype(np.float32)
    icc_profile = np.minimum(np.rint(high.levels[..., :3] * (_WHITE_16 / np.maximum(alpha, 1))), _WHITE_16)
    return high._replace(levels=np.concatenate([icc_profile.astype(np.uint16), high.levels[..., 3:]], axis=-1))


def _both_bytes(
    image: Image.Image, reopen: Callable[[], Image.Image], as_stored: Callable[[str], str] = str
) -> HighDepth:
    """Levels of a file with 16-bit colours.

    Args:
        as_stored: maps a raw mode to the one that leaves the levels as they are in the file.
    """
    _retiled(image, as_stored).load()
    with reopen() as reopened:
        _retiled(reopened, lambda raw: _other_order(as_stored(raw))).load()
        return HighDepth(_joined(np.asarray(image), np.asarray(reopened)), _WHITE_16, image.mode)


def _joined(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    return np.asarray(upper.astype(np.uint16) << 8 | lower)


def _other_order(raw: str) -> str:
    name, _, order = raw.rpartition(";16")
    order = _NATIVE if order == "N" else order
    return f"{name};16{'B' if order == 'L' else 'L'}"


def _retiled(image: Any, change: Callable[[str], str]) -> Any:
    """An opened image whose bytes will be decoded with another Pillow raw mode."""

    def changed(args: Any) -> Any:
        return change(args) if isinstance(args, str) else (change(args[0]), *args[1:])

    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]
    return image
