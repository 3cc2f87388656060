"""Conversion of one original image to a PNG, or the reason why it is skipped. Runs in the worker processes."""

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

KEPT, UNREADABLE, TOO_SMALL, SHORT_SIDE, LONG_ASPECT, LOW_CONTRAST, DUPLICATE = range(7)
#: Names of the reasons in the manifest.
REASONS = {
    UNREADABLE: "unreadable",
    TOO_SMALL: "smaller than the training size",
    SHORT_SIDE: "below min_side",
    LONG_ASPECT: "above max_aspect",
    LOW_CONTRAST: "below min_contrast",
    DUPLICATE: "duplicate",
}
#: Reasons that are errors unless ``on_error=skip``; the others are requested by the settings.
FAULTS = (UNREADABLE, TOO_SMALL)
#: An image is compressed if that reduces it below this fraction of its size, otherwise stored, which is three times as
#: fast to read. Photographs are stored, a tenth larger than compressed; drawings and digits are compressed.
MIN_COMPRESSED_SIZE = 0.75

_SAMPLED_ROWS = 8  # every eighth row is compressed to estimate the ratio

_NO_HASH = bytes(HASH_BYTES)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # grey, RGB


class PreparedImage(NamedTuple):
    """Result for one image.

    Args:
        reason: ``KEPT``, or why it is skipped.
        png: the PNG file; empty if it is skipped.
        pixel_hash: hash of the prepared pixels.
        source_hash: hash of the original image.
        text: why it is skipped; for a kept image the decoder's notes, one per line.
    """

    reason: int
    png: bytes = b""
    pixel_hash: bytes = _NO_HASH
    source_hash: bytes = _NO_HASH
    text: str = ""


class PrepareBlocks:
    """Prepares blocks of images.

    Args:
        originals: the images.
        plan: size, channels and other preprocessing options.
        filters: image filters.
    """

    def __init__(self, originals: Originals, plan: Preprocessing, filters: Filters) -> None:
        self._originals, self._plan, self._filters = originals, plan, filters

    def __call__(self, start: int, end: int) -> list[PreparedImage]:
        """Prepare the images from ``start`` to ``end`` - 1."""
        with without_warnings():
            return [self._prepare(index) for index in range(start, end)]

    def _prepare(self, index: int) -> PreparedImage:
        try:
            image, source_hash, notes = self._originals.read(index)
        except UsageError as error:
            return PreparedImage(UNREADABLE, text=str(error))
        reason = unwanted(self._filters, image.height, image.width)
        if reason != KEPT:
            text = f"{self._originals.title(index)}: {image.height}x{image.width} (height x width)"
            return PreparedImage(reason, source_hash=source_hash, text=text)
        plan = self._plan
        try:
            fitted = fit_image(image, plan.size, plan.fit, plan.upscale, plan.background)
        except UsageError as error:
            return PreparedImage(TOO_SMALL, source_hash=source_hash, text=f"{self._originals.title(index)}: {error}")
        pixels = to_array(with_channels(fitted, plan.channels))
        if self._filters.min_contrast and pixels.std() < self._filters.min_contrast:
            text = f"{self._originals.title(index)}: a contrast of {pixels.std():.2f}"
            return PreparedImage(LOW_CONTRAST, source_hash=source_hash, text=text)
        return PreparedImage(KEPT, encode_png(pixels), hash_item(pixels.tobytes()), source_hash, "\n".join(notes))


class HeaderScan:
    """Reads the headers of blocks of images, to choose size and channels."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals

    def __call__(self, start: int, end: int) -> list[Header | str]:
        """The header of each image, or an error message."""
        with without_warnings():
            return [self._header(index) for index in range(start, end)]

    def _header(self, index: int) -> Header | str:
        try:
            return self._originals.header(index)
        except UsageError as error:
            return str(error)


def unwanted(filters: Filters, height: int, width: int) -> int:
    """The reason why an image of this size is rejected; ``KEPT`` if it is accepted."""
    if min(height, width) < filters.min_side:
        return SHORT_SIDE
    if filters.max_aspect and max(height, width) > filters.max_aspect * min(height, width):
        return LONG_ASPECT
    return KEPT


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode (C, H, W) uint8 with 1 or 3 channels as a PNG with unfiltered rows (filter type 0).

    It is fast to write and fast to read with ``read_plain_png``; to other readers it is an ordinary PNG.
    """
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each row starts with its filter type
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    header = struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    sample = rows[::_SAMPLED_ROWS].tobytes()
    level = 1 if len(zlib.compress(sample, 1)) < MIN_COMPRESSED_SIZE * len(sample) else 0
    body = zlib.compress(rows.tobytes(), level)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
