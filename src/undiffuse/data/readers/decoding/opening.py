"""Safe opening of one image file with its metadata; error messages start with the file's title."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.decoding.code_points import NOT_READ, colours_of
from undiffuse.data.readers.decoding.colour import BROKEN
from undiffuse.data.readers.decoding.png import SIGNATURE, Png, read_png
from undiffuse.errors import UsageError

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "TGA")
_AVIF_COLOURS, _HEADER_BYTES = re.compile(rb"colrnclx(.{4})", re.DOTALL), 2**16
_AVIF_EXIF = re.compile(rb"(infe.{8})Exif", re.DOTALL)
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_TIFF_STARTS = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")


class ImageFile(NamedTuple):
    """An image file whose header has been read.

    Attributes:
        image: not decoded yet.
        file: the stream it is decoded from.
        png: the parsed file if it is a PNG.
        broken_exif: whether the file can be opened only without its EXIF.
    """

    image: Image.Image
    file: BinaryIO
    png: Png | None
    broken_exif: bool

    def icc_profile(self) -> tuple[bytes, str]:
        """The ICC profile (empty if there is none) and a note for the user (empty if there is none).

        In a PNG the code points take precedence over the profile, in an AVIF the profile over the code points.
        """
        if self.png is None:
            content = self.image.info.get("icc_profile") or b""
            if not isinstance(content, bytes):
                return b"", BROKEN
            return (content, "") if content or self.image.format != "AVIF" else self._of_avif()
        if self.png.cicp:
            primaries, transfer, matrix, full_range = self.png.cicp
            return colours_of(primaries, transfer) if (matrix, full_range) == (0, 1) else (b"", NOT_READ)
        return self.png.profile, BROKEN if "iCCP" in self.png.broken else ""

    def _of_avif(self) -> tuple[bytes, str]:
        """Use the code points in the header, which Pillow does not expose."""
        self.file.seek(0)
        found = _AVIF_COLOURS.search(self.file.read(_HEADER_BYTES))
        return colours_of(*struct.unpack(">HH", found[1])) if found else (b"", "")

    def reopened(self) -> Image.Image:
        """Reopen the same file, not decoded."""
        self.file.seek(0)
        return Image.open(self.file, formats=_formats())


@contextlib.contextmanager
def open_image(source: Path | bytes, title: str, header_only: bool) -> Iterator[ImageFile]:
    """Open one image file.

    Args:
        source: path of the file, or its content.
        title: name of the file in messages; defaults to its path.
        header_only: whether only the header will be read.

    Raises:
        UsageError: empty, not an image, unreadable, or a decompression bomb, also if detected later while decoding.
    """
    title = title or (str(source) if isinstance(source, Path) else "an image in memory")
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            found = _opened(file, header_only)
            with found.image:
                _check_pixel_count(found.image)
                yield found
    except UsageError as error:
        message = str(error)
        raise UsageError(message if message.startswith(title) else f"{title}: {message}") from None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{title}: {_unidentified(source)}") from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"{title}: too large to be decoded safely ({error})") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})" if error.strerror else _damaged(error)
        raise UsageError(f"{title}: {what}") from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen types for corrupt files
        raise UsageError(f"{title}: {_damaged(error)}") from None


def _damaged(error: Exception) -> str:
    """The decoder's message on one line."""
    return f"damaged or cut short ({' '.join(str(error).split()) or type(error).__name__})"


def _opened(file: BinaryIO, header_only: bool) -> ImageFile:
    start = file.read(16)
    if not start:
        raise UsageError("the file is empty (0 bytes)")
    file.seek(0)
    if start.startswith(SIGNATURE):
        png = read_png(file, header_only)
        pixels = io.BytesIO(png.pixels)
        return ImageFile(Image.open(pixels, formats=("PNG",)), pixels, png, False)
    is_heic = heic.is_heic(start) and heic.is_installed()
    try:
        return ImageFile(Image.open(file, formats=_formats(is_heic)), file, None, False)
    except Exception:  # the AVIF decoder checks EXIF before it returns pixels
        file.seek(0)
        content = file.read() if start[4:8] == b"ftyp" else b""
        plain = io.BytesIO(_AVIF_EXIF.sub(rb"\1free", content))
        if plain.getvalue() == content:
            raise
        return ImageFile(Image.open(plain, formats=_formats(is_heic)), plain, None, True)


@functools.cache
def _formats(with_heic: bool = False) -> tuple[str, ...]:
    """The supported formats of ``_FORMATS``; without a list Pillow would pass PostScript to an interpreter."""
    Image.init()
    if with_heic:
        heic.register()
    return tuple(name for name in (*_FORMATS, *([heic.FORMAT] if with_heic else [])) if name in Image.OPEN)


def _check_pixel_count(image: Image.Image) -> None:
    """Check the number of pixels: Pillow only warns between its limit and twice the limit; here the limit is strict."""
    limit = Image.MAX_IMAGE_PIXELS
    width, height = image.size
    if limit is not None and width * height > limit:
        raise UsageError(f"{width}x{height} pixels are more than the {limit} that are decoded safely; make it smaller")


def _unidentified(source: Path | bytes) -> str:
    """The reason why a file cannot be identified."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        start = file.read(16)
        if heic.is_heic(start) and not heic.is_installed():
            return f"a HEIC image, despite its name; {heic.ADVICE}"
        if start.startswith(_JPEG_XL):
            return "a JPEG XL image, despite its name; JPEG XL is not supported, convert it to PNG or JPEG"
        return _unsupported_tiff(start, file) or "not an image that can be read, despite its name"


def _unsupported_tiff(start: bytes, file: BinaryIO) -> str:
    """Describe a TIFF that Pillow does not support; empty for other files and TIFFs with a broken directory."""
    if not start.startswith(_TIFF_STARTS):
        return ""
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(start if start[2] == 43 or start[3] == 43 else start[:8])
        file.seek(tags.next)
        tags.load(file)
        bits, kind = "+".join(map(str, tags.get(258, (1,)))), {1: "", 2: " signed", 3: " floating-point"}
        what = f"{bits} bits{kind.get(max(tags.get(339, (1,))), ' unknown')}, photometric interpretation {tags[262]}"
    except Exception:  # corrupt files raise errors of a dozen types
        return ""
    return f"a TIFF of {what}, which is not supported; save it with 8 or 16 unsigned bits in grey or RGB, or as PNG"
