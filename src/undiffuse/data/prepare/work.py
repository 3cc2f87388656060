"""From one image as found to one PNG, or the reason why it is left out. This runs in the worker processes."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.dataset import HASH_BYTES, hash_item
from undiffuse.data.prepare.originals import Originals
from undiffuse.data.prepare.settings import Filters
from undiffuse.data.readers.decoding.image import Header, fit_image, to_array, with_channels, without_warnings
from undiffuse.data.storage.encoded import Preprocessing
from undiffuse.errors import UsageError

KEPT, UNREADABLE, TOO_SMALL, SHORT_SIDE, LONG_ASPECT, LOW_CONTRAST, DUPLICATE, NO_CAPTION = range(8)
#: What the manifest calls each reason.
REASONS = {
    UNREADABLE: "unreadable",
    TOO_SMALL: "smaller than the training size",
    SHORT_SIDE: "below min_side",
    LONG_ASPECT: "above max_aspect",
    LOW_CONTRAST: "below min_contrast",
    DUPLICATE: "duplicate",
    NO_CAPTION: "empty caption",
}
#: Reasons that are errors unless ``on_error=skip``; the others were asked for.
FAULTS = (UNREADABLE, TOO_SMALL, NO_CAPTION)
#: An image is compressed where that makes it smaller than this share, and else stored, which is read back three times
#: as fast. Photographs are stored, a tenth larger than compressed; drawings and digits are compressed.
MIN_COMPRESSED_SIZE = 0.75

_SAMPLED_ROWS = 8  # every eighth row tells whether an image is worth it

_NO_HASH = bytes(HASH_BYTES)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # grey, RGB


class PreparedImage(NamedTuple):
    """What became of one image.

    Args:
        reason: ``KEPT``, or why it is left out.
        png: the file; empty where it is left out.
        pixel_hash: of the prepared pixels.
        found_hash: of the image as found.
        text: why it is left out; what decoding has to say, a line each, where it is kept.
    """

    reason: int
    png: bytes = b""
    pixel_hash: bytes = _NO_HASH
    found_hash: bytes = _NO_HASH
    text: str = ""


class PrepareBlocks:
    """All that is done to images, in blocks of them.

    Args:
        originals: the images.
        plan: size, channels and the rest.
        filters: which are wanted.
    """

    def __init__(self, originals: Originals, plan: Preprocessing, filters: Filters) -> None:
        self._originals, self._plan, self._filters = originals, plan, filters

    def __call__(self, start: int, end: int) -> list[PreparedImage]:
        """What becomes of the images from ``start`` to ``end`` - 1."""
        with without_warnings():
            return [self._make(index) for index in range(start, end)]

    def _make(self, index: int) -> PreparedImage:
        if self._originals.captions is not None and not self._originals.captions[index].strip():
            return PreparedImage(NO_CAPTION, text=f"{self._originals.title(index)}: its caption is empty")
        try:
            image, found_hash, notes = self._originals.read(index)
        except UsageError as error:
            return PreparedImage(UNREADABLE, text=str(error))
        reason = unwanted(self._filters, image.height, image.width)
        if reason != KEPT:
            text = f"{self._originals.title(index)}: {image.height}x{image.width} (height x width)"
            return PreparedImage(reason, found_hash=found_hash, text=text)
        plan = self._plan
        try:
            fitted = fit_image(image, plan.size, plan.fit, plan.upscale, plan.background)
        except UsageError as error:
            return PreparedImage(TOO_SMALL, found_hash=found_hash, text=f"{self._originals.title(index)}: {error}")
        pixels = to_array(with_channels(fitted, plan.channels))
        if self._filters.min_contrast and pixels.std() < self._filters.min_contrast:
            text = f"{self._originals.title(index)}: a contrast of {pixels.std():.2f}"
            return PreparedImage(LOW_CONTRAST, found_hash=found_hash, text=text)
        return PreparedImage(KEPT, encode_png(pixels), hash_item(pixels.tobytes()), found_hash, "\n".join(notes))


class HeaderScan:
    """The headers of blocks of images, for choosing size and channels."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals

    def __call__(self, start: int, end: int) -> list[Header | str]:
        """Of each image its header, or what is wrong with it."""
        with without_warnings():
            return [self._header(index) for index in range(start, end)]

    def _header(self, index: int) -> Header | str:
        try:
            return self._originals.header(index)
        except UsageError as error:
            return str(error)


def unwanted(filters: Filters, height: int, width: int) -> int:
    """Why an image of this size is not wanted; ``KEPT`` if it is."""
    if min(height, width) < filters.min_side:
        return SHORT_SIDE
    if filters.max_aspect and max(height, width) > filters.max_aspect * min(height, width):
        return LONG_ASPECT
    return KEPT


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of (C, H, W) uint8 with 1 or 3 channels, whose rows are all unfiltered (type 0).

    So it is written fast, and read fast by those who know; to all others it is a PNG like any.
    """
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each row begins with its filter's number
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    header = struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    sample = rows[::_SAMPLED_ROWS].tobytes()
    level = 1 if len(zlib.compress(sample, 1)) < MIN_COMPRESSED_SIZE * len(sample) else 0
    body = zlib.compress(rows.tobytes(), level)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
