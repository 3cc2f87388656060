"""Access to the original images of a source, one at a time, from encoded files or arrays."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from PIL import Image

from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.data.dataset import Dataset, Indices, hash_item, select_classes
from undiffuse.data.load import list_source
from undiffuse.data.readers.decoding.image import Header, decode_image, from_array, read_header
from undiffuse.data.sources.layout.ignored_items import LEFT_OUT
from undiffuse.data.storage.encoded import content_hash
from undiffuse.data.storage.listing import FileListing
from undiffuse.errors import UsageError

KEY_BYTES = 8
#: Provenance entries of the source that are recorded in a prepared archive.
_RECORDED = ("licence", "skipped", "splits", "masks", LEFT_OUT, "classes_joined", "classes_called")


class FoundImage(NamedTuple):
    """An image in mode ``L`` or ``RGB``, its 16-byte hash in the source, and the decoder's notes."""

    image: Image.Image
    hash: bytes
    notes: tuple[str, ...] = ()


class Originals(ABC):
    """A fixed sequence of images with labels and captions; may be read after a fork.

    Args:
        chosen: a data set of the images of the selected classes.

    Attributes:
        about: provenance of the source, with the skipped items.
    """

    def __init__(self, chosen: Dataset) -> None:
        self.chosen = chosen
        self.labels, self.captions, self.class_names = chosen.labels, chosen.captions, chosen.class_names
        self.about: dict[str, str] = {key: chosen.provenance[key] for key in _RECORDED if key in chosen.provenance}
        self._container, self._state = "", b""

    def __len__(self) -> int:
        return len(self.chosen)

    @abstractmethod
    def title(self, index: int) -> str:
        """Name of one image in messages."""

    @abstractmethod
    def header(self, index: int) -> Header:
        """Size and kind of one image.

        Raises:
            UsageError: the image cannot be read.
        """

    @abstractmethod
    def read(self, index: int) -> FoundImage:
        """Read one image, upright.

        Raises:
            UsageError: the image cannot be read.
        """

    def key(self, index: int) -> bytes:
        """8-byte hash of the image's name, file state, class and caption, to detect changes."""
        title = self.title(index)
        label = "" if self.labels is None else self.class_names[self.labels[index]]
        caption = "" if self.captions is None else self.captions[index]
        known = "\0".join((title, label, caption)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(known + self._file_state(title), digest_size=KEY_BYTES).digest()

    def _file_state(self, title: str) -> bytes:
        """Size and modification time of the file that contains the image; read once per archive."""
        container = title.partition("!")[0]
        if container != self._container:
            self._container, self._state = container, b""
            try:
                found = os.stat(container)  # noqa: PTH116 (a million paths cost more than a million calls)
                self._state = b"%d:%d" % (found.st_size, found.st_mtime_ns)
            except OSError:  # not a file; the title alone identifies it
                pass
        return self._state


class EncodedOriginals(Originals):
    """Encoded image files."""

    def __init__(self, listed: FileListing, chosen: Dataset, config: ImageConfig) -> None:
        super().__init__(chosen)
        self._files, self._background = listed.files, config.background
        self.about |= listed.skips.report
        self._rows: Indices | None = None if chosen is listed else chosen.items(np.arange(len(chosen)))

    def title(self, index: int) -> str:
        return self._files.title(self._row(index))

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    def header(self, index: int) -> Header:
        row = self._row(index)
        return read_header(self._files.source(row), self._background, self.title(index))

    def read(self, index: int) -> FoundImage:
        row = self._row(index)
        found = decode_image(self._files.source(row), self._background, self.title(index))
        leading = self._files.split_hash(row)
        return FoundImage(found.image, leading + content_hash(found.image)[len(leading) :], found.notes)


class ArrayOriginals(Originals):
    """Images of an array, all of the same size."""

    def __init__(self, chosen: Dataset, config: ImageConfig) -> None:
        super().__init__(chosen)
        self._location = str(getattr(config, "location", config.name))

    def title(self, index: int) -> str:
        name = self.chosen.item_name(index)
        return name if name.startswith(self._location) else f"{self._location}!{name}"

    def header(self, index: int) -> Header:
        channels, height, width = self.chosen.shape
        return Header(height, width, channels == 1)

    def read(self, index: int) -> FoundImage:
        pixels = self.chosen.items(np.array([index]))[0]
        return FoundImage(from_array(pixels), hash_item(pixels.tobytes()))


def open_originals(config: SourceConfig) -> Originals:
    """Open the images of the selected classes of a source.

    Raises:
        UsageError: the source has points, or is empty, missing or corrupt; or a class is unknown.
    """
    if not isinstance(config, ImageConfig):
        raise UsageError(f"the source {config.name!r} has {config.contents}; expected one of images")
    found = list_source(config)
    if len(found) == 0:
        raise UsageError(f"the data source {config.name!r} is empty; expected at least one image")
    chosen = select_classes(found, config.classes)
    if isinstance(found, FileListing):
        return EncodedOriginals(found, chosen, config)
    return ArrayOriginals(chosen, config)
