"""The images of a source as they are found, one at a time, whether they are encoded files or rows of an array."""

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
from undiffuse.data.sources.layout.left_out import LEFT_OUT
from undiffuse.data.storage.encoded import content_hash
from undiffuse.data.storage.listing import FileListing
from undiffuse.errors import UsageError

KEY_BYTES = 8
#: What a prepared archive says of its source.
_RECORDED = ("licence", "skipped", "splits", "masks", LEFT_OUT, "classes_joined", "classes_called")


class FoundImage(NamedTuple):
    """An image in mode ``L`` or ``RGB``, the 16 bytes that stand for it in its source's ``hashes``, and remarks."""

    image: Image.Image
    hash: bytes
    notes: tuple[str, ...] = ()


class Originals(ABC):
    """A fixed sequence of images with what is known of them; reading is safe after a fork.

    Args:
        chosen: the images that are wanted by class, as a data set.

    Attributes:
        about: what their source says of them, and what its reader left out.
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
        """What to call one image in a message."""

    @abstractmethod
    def header(self, index: int) -> Header:
        """Size and kind.

        Raises:
            UsageError: it cannot be read.
        """

    @abstractmethod
    def read(self, index: int) -> FoundImage:
        """The image, upright.

        Raises:
            UsageError: it cannot be read.
        """

    def key(self, index: int) -> bytes:
        """8 bytes that change with the image's name, place, file, class or caption: is it still the same one?"""
        title = self.title(index)
        label = "" if self.labels is None else self.class_names[self.labels[index]]
        caption = "" if self.captions is None else self.captions[index]
        known = "\0".join((title, label, caption)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(known + self._file_state(title), digest_size=KEY_BYTES).digest()

    def _file_state(self, title: str) -> bytes:
        """Size and time of the file that holds the image; of an archive it is asked for once."""
        container = title.partition("!")[0]
        if container != self._container:
            self._container, self._state = container, b""
            try:
                found = os.stat(container)  # noqa: PTH116 (a million paths cost more than a million calls)
                self._state = b"%d:%d" % (found.st_size, found.st_mtime_ns)
            except OSError:  # no file, or a part of one, which its title alone stands for
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
    """Rows of a set whose images are all of one size."""

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
    """The images of a source, those of the classes that it names.

    Raises:
        UsageError: a source of points; an empty, missing or damaged one; an unknown class.
    """
    if not isinstance(config, ImageConfig):
        raise UsageError(f"the source {config.name!r} has points; expected one of images")
    found = list_source(config)
    if len(found) == 0:
        raise UsageError(f"the data source {config.name!r} is empty; expected at least one image")
    chosen = select_classes(found, config.classes)
    if isinstance(found, FileListing):
        return EncodedOriginals(found, chosen, config)
    return ArrayOriginals(chosen, config)
