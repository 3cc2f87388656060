"""Levels of more than 8 bits, without what Pillow cuts away, and what is black and what is white in them.

Pillow reads colours of 16 bits by their upper bytes. Read once more in the other byte order, the same file gives the
lower ones. What white is, is a rule for each kind of file and never looked for in an image, so that it is the same for
all of a data set: the greatest number of so many bits; 65535 for whole numbers of 32 bits, which hold levels of 16 as
Pillow writes them; 1 for floating-point numbers.
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
    """Levels that do not fit into 8 bits.

    Attributes:
        levels: (H, W, C), from 0 to ``white``.
        white: the level of white and of full opacity.
        mode: the mode of Pillow's that they would have with 8 bits.
    """

    levels: npt.NDArray[Any]
    white: float
    mode: str


def read_levels(image: Image.Image, reopen: Callable[[], Image.Image], png: Png | None) -> Image.Image | HighDepth:
    """The pixels of an image that was opened: as it is where 8 bits hold them, else its levels.

    Args:
        image: just opened; it is loaded here.
        reopen: opens the same file once more.
        png: what the file is, where it is a PNG.

    Raises:
        UsageError: levels whose black and white are not known, or that Pillow would read wrongly.
    """
    if png is not None:
        return _of_png(image, reopen, png)
    if image.format == "TIFF":
        return _of_tiff(image, reopen)
    image.load()
    return _of_grey(image) if _is_high_depth_grey(image.mode) else image


def to_eight_bits(high: HighDepth) -> Image.Image:
    """Each level as the nearest of 0..255."""
    return Image.fromarray(rounded(high).squeeze(-1) if high.mode == "L" else rounded(high), high.mode)


def rounded(high: HighDepth) -> npt.NDArray[np.uint8]:
    """(H, W, C)."""
    levels = high.levels
    if levels.dtype == np.uint16 and high.white == _WHITE_16:  # v / 257 to the nearest, in whole numbers
        return np.asarray((levels.astype(np.uint32) * 255 + 32895) >> 16, dtype=np.uint8)
    return np.asarray(np.rint(levels * (255 / high.white)), dtype=np.uint8)


def _is_high_depth_grey(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;")


def _of_grey(image: Image.Image, white: float = _WHITE_16) -> HighDepth:
    """Of a loaded image in one of Pillow's modes of one channel of more than 8 bits."""
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
    levels = levels if levels.dtype.kind == "f" else levels.astype(np.uint16)  # also in this machine's byte order
    return HighDepth(levels[..., None], white, "L")


def _of_png(image: Image.Image, reopen: Callable[[], Image.Image], png: Png) -> Image.Image | HighDepth:
    transparent = image.info.pop("transparency", None) if png.depth != 8 and png.colour_type in (0, 2) else None
    if png.depth != 16:
        image.load()
        return image if transparent is None else _with_transparent(image, transparent, png.depth)
    high = _of_png_16(image, reopen, png.colour_type)
    return high if transparent is None else _with_alpha(high, transparent)


def _with_transparent(image: Image.Image, transparent: int, depth: int) -> Image.Image:
    """A grey image of fewer than 8 bits: Pillow spreads its levels over 0..255, but not always the transparent one."""
    grey = image.convert("L")
    grey.info["transparency"] = 255 * min(transparent, 1) if depth == 1 else transparent * (255 // (2**depth - 1))
    return grey


def _of_png_16(image: Image.Image, reopen: Callable[[], Image.Image], colour_type: int) -> HighDepth:
    if colour_type == 0:
        image.load()
        return _of_grey(image)
    if colour_type == 4:  # four bytes per pixel, which Pillow reads as RGBA: both of the level, both of the opacity
        _retiled(image, lambda raw: "RGBA").load()
        both = np.asarray(image)
        return HighDepth(_joined(both[..., ::2], both[..., 1::2]), _WHITE_16, "LA")
    return _both_bytes(image, reopen)


def _with_alpha(high: HighDepth, transparent: int | tuple[int, ...]) -> HighDepth:
    """Transparent wherever the levels are these."""
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
    """Of 16 bits a level, each the nearest of 0..255; some writers put levels of 8 there."""
    found = np.array(levels)
    return (found if found.max() < 256 else (found * 255 + 32895) >> 16).astype(np.uint8).tobytes()


def _check_unsigned(tags: dict[int, Any], bits: int) -> None:
    if _SIGNED in tags.get(_TIFF_FORMAT, ()) and bits < 32:
        raise UsageError(f"a TIFF of signed numbers of {bits} bits, whose black and white are not known; save unsigned")


def _check_planes(tags: dict[int, Any], num_bands: int, bits: int) -> None:
    """Pillow takes separate planes for 8 bits a value, and one of another kind that is not packed too."""
    valid = bits == 8 and (num_bands > 1 or tags.get(_TIFF_PHOTOMETRIC, 0) != _MIN_IS_WHITE)
    packed_single = num_bands == 1 and tags.get(_TIFF_COMPRESSION, 1) != 1
    if tags.get(_TIFF_PLANES, 1) == _SEPARATE and not (valid or packed_single):
        raise UsageError(
            f"a TIFF of {bits} bits in separate planes (PlanarConfiguration 2), which are read with 8 bits alone; "
            "save it interleaved, or as PNG"
        )


def _unassociated(high: HighDepth) -> HighDepth:
    """Colours that were multiplied by their opacity, divided by it again."""
    alpha = high.levels[..., 3:].astype(np.float32)
    colours = np.minimum(np.rint(high.levels[..., :3] * (_WHITE_16 / np.maximum(alpha, 1))), _WHITE_16)
    return high._replace(levels=np.concatenate([colours.astype(np.uint16), high.levels[..., 3:]], axis=-1))


def _both_bytes(
    image: Image.Image, reopen: Callable[[], Image.Image], as_stored: Callable[[str], str] = str
) -> HighDepth:
    """Of a file with colours of 16 bits.

    Args:
        as_stored: the raw mode that leaves the levels as they are in the file.
    """
    _retiled(image, as_stored).load()
    with reopen() as again:
        _retiled(again, lambda raw: _other_order(as_stored(raw))).load()
        return HighDepth(_joined(np.asarray(image), np.asarray(again)), _WHITE_16, image.mode)


def _joined(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    return np.asarray(upper.astype(np.uint16) << 8 | lower)


def _other_order(raw: str) -> str:
    name, _, order = raw.rpartition(";16")
    order = _NATIVE if order == "N" else order
    return f"{name};16{'B' if order == 'L' else 'L'}"


def _retiled(image: Any, change: Callable[[str], str]) -> Any:
    """An opened image whose bytes will be taken for another of Pillow's raw modes."""

    def changed(args: Any) -> Any:
        return change(args) if isinstance(args, str) else (change(args[0]), *args[1:])

    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]
    return image
