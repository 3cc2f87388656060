"""Conversion to sRGB by the embedded ICC profile.

Relative colorimetric intent with black point compensation: white and black are preserved, colours inside the sRGB gamut
are preserved, colours outside are clipped to it. If the profile changes no colour by more than 2 of 255 levels, the
image is treated as sRGB, regardless of the profile's name, and its pixels stay unchanged.

Source: ICC.1:2022 (profile version 4.4); computed by Little CMS.
"""

from __future__ import annotations

import functools
import io
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from undiffuse.data.readers.decoding.depth import HighDepth, rounded, to_eight_bits

BROKEN = "with a broken colour profile, colours left as stored"
UNFIT = "with a colour profile that does not fit how they are stored, colours left as stored"
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # profile colour space -> Pillow mode
_CLASSES = ("mntr", "scnr", "prtr", "spac")  # monitor, scanner, printer and colour space: the ones embedded in images
_GREY_MODES = ("1", "L", "LA", "La")
_SAME = 2  # levels of 255
_MIN_WHITE, _MAX_BLACK = 200, 64  # levels to which a valid profile maps white and black
_MAX_NAME = 60
_BLOCK = 2**20  # 16-bit pixels converted at once
_NO_NAME = "an unnamed colour profile"

Bytes = npt.NDArray[np.uint8]


class Profile(NamedTuple):
    """A valid profile.

    Attributes:
        mode: Pillow mode of the images it applies to: ``L``, ``RGB`` or ``CMYK``.
        name: its description.
        is_srgb: whether it equals sRGB within rounding.
        transform: from ``mode`` (``I;16`` for grey) to sRGB in mode ``RGB``.
    """

    mode: str
    name: str
    is_srgb: bool
    transform: ImageCms.ImageCmsTransform


def to_srgb(pixels: Image.Image | HighDepth, content: bytes) -> tuple[Image.Image, str]:
    """The 8-bit image in sRGB, and a note for the user (empty if the profile changes nothing).

    Args:
        pixels: as stored, in any orientation.
        content: bytes of the profile; empty if there is none.
    """
    if not content:
        return _eight_bits(pixels), ""
    profile = read_profile(content)
    if profile is None:
        return _eight_bits(pixels), BROKEN
    if profile.is_srgb:
        return _eight_bits(pixels), ""
    if profile.mode != _stored_mode(pixels.mode):
        return _eight_bits(pixels), UNFIT
    return _converted(pixels, profile), f"converted from {profile.name} to sRGB"


def _eight_bits(pixels: Image.Image | HighDepth) -> Image.Image:
    return to_eight_bits(pixels) if isinstance(pixels, HighDepth) else pixels


def _stored_mode(mode: str) -> str:
    """The profile mode that matches an image mode."""
    return "L" if mode in _GREY_MODES else mode if mode in ("CMYK", "LAB") else "RGB"


@functools.lru_cache(maxsize=32)
def read_profile(content: bytes) -> Profile | None:
    """Parse a profile; ``None`` if it is invalid or not for images."""
    try:
        profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(content)).profile
        mode = _SPACES.get(profile.xcolor_space.strip())
        if mode is None or profile.device_class not in _CLASSES:
            return None
        transform = _transform(profile, mode)
        probe = _probe(mode)
        found = np.asarray(ImageCms.applyTransform(probe, transform))[0]
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        return None
    known = None if mode == "CMYK" else (np.asarray(probe)[0] // (257 if mode == "L" else 1)).reshape(len(found), -1)
    if known is not None and (found[0].max() > _MAX_BLACK or found[-1].min() < _MIN_WHITE):
        return None
    is_srgb = known is not None and bool(np.abs(found.astype(np.int16) - known).max() <= _SAME)
    return Profile(mode, _name(profile), is_srgb, transform)


def _transform(profile: Any, mode: str) -> ImageCms.ImageCmsTransform:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":  # applied to a ramp only; the optimised table would be too coarse in dark tones
        flags |= ImageCms.Flags.NOOPTIMIZE
    srgb = ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(profile, srgb, "I;16" if mode == "L" else mode, "RGB", intent, flags)


def _probe(mode: str) -> Image.Image:
    """One row of test colours from black to white; for CMYK from no ink to full ink."""
    if mode == "L":
        return Image.fromarray((np.arange(256) * 257).astype(np.uint16)[None])
    axes = np.meshgrid(*[np.linspace(0, 255, 9).round()] * len(mode), indexing="ij")
    cube = np.stack(axes, axis=-1).reshape(-1, len(mode))
    ramp = np.arange(256)[:, None].repeat(len(mode), axis=1)
    return Image.fromarray(np.concatenate([cube, ramp]).astype(np.uint8)[None], mode)


def _name(profile: Any) -> str:
    name = "".join(filter(str.isprintable, profile.profile_description or "")).strip()
    return name[:_MAX_NAME] or _NO_NAME


def _converted(pixels: Image.Image | HighDepth, profile: Profile) -> Image.Image:
    if isinstance(pixels, HighDepth):
        alpha = rounded(pixels)[..., -1] if pixels.mode.endswith("A") else None
        levels = pixels.levels if alpha is None else pixels.levels[..., :-1]
        return _of_high_depth(pixels._replace(levels=levels), alpha, profile)
    plain = _with_mode(pixels)
    alpha = np.asarray(plain)[..., -1] if plain.mode.endswith("A") else None
    icc_profile = plain.convert(profile.mode) if alpha is not None else plain
    if profile.mode == "L":
        converted = icc_profile.point(cast(Any, _grey_table(profile)[::257].tolist()))
    else:
        converted = cast(Image.Image, ImageCms.applyTransform(icc_profile, profile.transform))
    return _joined(converted, alpha)


def _with_mode(image: Image.Image) -> Image.Image:
    """Convert to mode ``L``, ``LA``, ``RGB``, ``RGBA`` or ``CMYK``: no palette, transparency as a channel."""
    if image.mode == "CMYK":
        return image
    grey, clear = image.mode in _GREY_MODES, image.has_transparency_data
    if image.mode == "La":
        return image.convert("LA")
    return image.convert(("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB"))


def _joined(image: Image.Image, alpha: Bytes | None) -> Image.Image:
    image.info.clear()  # transparency of a palette or a colour has become a channel
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


def _grey_table(profile: Profile) -> Bytes:
    """(65536,): the sRGB level of each 16-bit level."""
    ramp = Image.fromarray(np.arange(65536, dtype=np.uint16)[None])
    return np.asarray(ImageCms.applyTransform(ramp, profile.transform))[0, :, 1]


def _of_high_depth(high: HighDepth, alpha: Bytes | None, profile: Profile) -> Image.Image:
    if profile.mode == "L":
        place = np.rint(high.levels[..., 0] * (65535 / high.white)).astype(np.uint16)
        return _joined(Image.fromarray(_grey_table(profile)[place]), alpha)
    if profile.mode == "CMYK":
        return cast(Image.Image, ImageCms.applyTransform(to_eight_bits(high), profile.transform))
    rows = max(1, _BLOCK // high.levels.shape[1])
    starts = range(0, len(high.levels), rows)
    parts = [_high_depth_colours(high.levels[at : at + rows] * np.float32(255 / high.white), profile) for at in starts]
    return _joined(Image.fromarray(np.concatenate(parts)), alpha)


def _high_depth_colours(levels: npt.NDArray[np.float32], profile: Profile) -> Bytes:
    """(H, W, 3): linear interpolation of the 8-bit transform along each axis."""

    def transform(icc_profile: Bytes) -> npt.NDArray[np.float32]:
        found: Any = ImageCms.applyTransform(Image.fromarray(icc_profile), profile.transform)
        return np.asarray(found, dtype=np.float32)

    floor = levels.astype(np.uint8)
    below = transform(floor)
    converted = below.copy()
    for axis in range(3):
        above = floor.copy()
        above[..., axis] += above[..., axis] < 255
        converted += (levels[..., axis] - floor[..., axis])[..., None] * (transform(above) - below)
    return np.asarray(np.rint(converted.clip(0, 255)), dtype=np.uint8)
