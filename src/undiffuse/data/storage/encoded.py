"""Data sets of encoded image files: decoded once into memory if they fit, else each time they are fetched.

A format provides its files (``EncodedFiles``), labels and captions; the rest is implemented here. Besides its pixels an
image takes 16 bytes for its hash and a few numbers, independent of the format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from undiffuse.cores import num_cores
from undiffuse.data.config import EncodedConfig, ImageConfig
from undiffuse.data.dataset import HASH_BYTES, ArrayDataset, Dataset, Hashes, Indices, hash_item
from undiffuse.data.readers.decoding.image import (
    Decoded,
    decode_image,
    default_side,
    fit_image,
    from_array,
    read_header,
    to_array,
    with_channels,
    without_warnings,
)
from undiffuse.data.readers.decoding.notes import DecodingNotes
from undiffuse.data.readers.decoding.plain_png import read_plain_png
from undiffuse.data.storage.cache import CacheWriter, caching, log_provenance
from undiffuse.data.storage.encoded_files import EncodedFiles, Titles
from undiffuse.data.storage.listing import FileListing, only_lists
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.progress import ProgressLine

MAX_BYTES_IN_MEMORY = 2 * 2**30
_MAX_BLOCK, _MAX_BLOCK_BYTES = 256, 2**28  # results that the threads may have ready before they are consumed
_TASK = 8  # files per task: submitting a task costs as much as reading a small file

num_threads = min(8, num_cores())  # set to 1 in worker processes

Pixels = npt.NDArray[np.uint8]
R = TypeVar("R")


class DecodedItem(NamedTuple):
    """The preprocessed pixels of one image, the hash of the original, and the decoder's notes."""

    pixels: Pixels
    hash: bytes
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Preprocessing:
    """Size and format to which every image is converted."""

    size: tuple[int, int]
    channels: int
    fit: str
    upscale: bool
    background: int | tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return (self.channels, *self.size)

    @property
    def options_text(self) -> str:
        """The options that affect the pixels, for provenance and fingerprints."""
        size = f"size={self.size[0]}x{self.size[1]} channels={self.channels}"
        return f"{size} fit={self.fit} upscale={self.upscale} background={self.background}"

    def pixels(self, files: EncodedFiles, index: int) -> Pixels:
        """(C, H, W) pixels of one file; error messages start with its title."""
        source = files.source(index)
        plain = self._plain(source)
        return self._decoded(source, files.title(index))[0] if plain is None else plain

    def decode(self, files: EncodedFiles, index: int) -> DecodedItem:
        """Pixels of one file with the hash of the original image and the decoder's notes."""
        source = files.source(index)
        plain = self._plain(source)
        pixels, found = (plain, None) if plain is not None else self._decoded(source, files.title(index))
        leading = files.split_hash(index)
        digest = content_hash(from_array(pixels) if found is None else found.image)
        return DecodedItem(pixels, leading + digest[len(leading) :], () if found is None else found.notes)

    def _plain(self, source: Path | bytes) -> Pixels | None:
        """Pixels of a file written by ``data prepare``, which needs no decoder and no resizing; else ``None``."""
        return read_plain_png(source, self.shape) if isinstance(source, bytes) else None

    def _decoded(self, source: Path | bytes, title: str) -> tuple[Pixels, Decoded]:
        """(C, H, W) pixels and the decoded original."""
        found = decode_image(source, self.background, title)
        try:
            fitted = fit_image(found.image, self.size, self.fit, self.upscale, self.background)
        except UsageError as error:
            raise UsageError(f"{title}: {error}") from None
        return to_array(with_channels(fitted, self.channels)), found


def content_hash(image: Image.Image) -> bytes:
    """Hash of the whole upright image in RGB, independent of file format and training size."""
    return hash_item(b"%dx%d:" % image.size + image.convert("RGB").tobytes())


def load_encoded(
    config: EncodedConfig,
    files: EncodedFiles,
    labels: npt.ArrayLike | None = None,
    class_names: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    provenance: Mapping[str, str] | None = None,
    skips: Skips | None = None,
) -> Dataset:
    """A data set of the images in these files, in order.

    Args:
        config: preprocessing options; ``config.name`` becomes the set's name.
        files: the encoded files.
        labels: (N,) class index of each file, or ``None``.
        class_names: one name per class.
        captions: one text per file, or ``None``.
        provenance: entries added to source, licence and options; may override them.
        skips: items already skipped by the reader.

    Raises:
        UsageError: the options do not match the images, no image is usable, or (unless ``on_error=skip``) a file is
            corrupt, too large or smaller than the training size; the message names the file.
    """
    skips = skips or Skips(config.on_error)
    if only_lists():
        return FileListing(config.name, files, labels, class_names, captions, provenance or {}, skips)
    with without_warnings():
        plan, rows, notes = _make_plan(config, files, skips)
        size = math.prod(plan.shape)
        with caching(config, len(rows), size, len(rows) * size <= MAX_BYTES_IN_MEMORY) as store:
            decoding = DecodingNotes()
            array, hashes, rows = _decode(plan, files, rows, skips, store, decoding)
            about = _about(plan, files, {**(provenance or {}), **skips.report, **decoding.report, **notes})
            selected_labels = None if labels is None else np.asarray(labels, dtype=np.int64)[rows]
            texts = None if captions is None else StringArray.of(captions).select(rows)
            lazy = _Lazy(config.name, plan, files, rows, selected_labels, class_names, about, hashes, texts)
            if array is None:
                return lazy if store is None else store.keep(lazy)
    files.release()
    return ArrayDataset(config.name, array, selected_labels, class_names, about, hashes, Titles(files, rows), texts)


def _about(plan: Preprocessing, files: EncodedFiles, notes: Mapping[str, str]) -> dict[str, str]:
    """Provenance of a set; entries that the user should know are also logged."""
    about = {
        "source": str(files.location),
        "licence": "not stated: that of the images",
        "options": plan.options_text,
        **notes,
    }
    log_provenance(files.location, about)
    return about


def _make_plan(
    config: EncodedConfig, files: EncodedFiles, skips: Skips
) -> tuple[Preprocessing, Indices, dict[str, str]]:
    """The plan, the files whose headers could be read, and a note if the size was chosen automatically."""
    if config.target is not None and config.channels is not None:  # the headers are not needed
        plan = Preprocessing(config.target, config.channels, config.fit, config.upscale, config.background)
        return plan, np.arange(len(files)), {}
    headers, rows = _headers(config, files, skips)
    plan, notes = preprocessing_for(config, headers)
    return plan, rows, notes


def _headers(config: EncodedConfig, files: EncodedFiles, skips: Skips) -> tuple[npt.NDArray[np.int32], Indices]:
    """(K, 3): height, width and whether grey; and the indices of the K files that could be read."""
    headers = np.empty((len(files), 3), dtype=np.int32)
    readable = np.zeros(len(files), dtype=bool)
    with ProgressLine(f"reading headers of {files.location.name}") as counter:
        for index in range(len(files)):
            counter.progress(index, len(files))
            try:
                headers[index] = read_header(files.source(index), config.background, files.title(index))
                readable[index] = True
            except UsageError as error:
                skips.take(error)
    skips.check_images_left(int(readable.sum()), len(files))
    return headers[readable], np.flatnonzero(readable)


def preprocessing_for(config: ImageConfig, headers: npt.NDArray[np.int32]) -> tuple[Preprocessing, dict[str, str]]:
    """Training size and channels for these images, and a note if the size was chosen automatically."""
    channels = config.channels or (1 if headers[:, 2].all() else 3)
    sizes = np.unique(headers[:, :2], axis=0)
    if config.target is not None or len(sizes) == 1:
        size = config.target or (int(sizes[0, 0]), int(sizes[0, 1]))
        return Preprocessing(size, channels, config.fit, config.upscale, config.background), {}
    shorter = headers[:, :2].min(axis=1)
    side = default_side(shorter)
    smallest, largest = sizes[sizes.min(axis=1).argmin()], sizes[sizes.min(axis=1).argmax()]
    reach, count = int((shorter >= side).sum()), len(shorter)
    others = ", the others enlarged" if reach < count else ""
    note = (
        f"the images differ in size ({smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]}, height x width); "
        f"taking data.size={side}, which {reach:,} of {count:,} reach{others}; set it to choose another"
    )
    return Preprocessing((side, side), channels, config.fit, True, config.background), {"size_chosen": note}


def _decode(
    plan: Preprocessing,
    files: EncodedFiles,
    rows: Indices,
    skips: Skips,
    store: CacheWriter | None,
    decoding: DecodingNotes,
) -> tuple[Pixels | None, Hashes, Indices]:
    """Decode and hash all files; the pixels are written to the store, or to memory if they fit."""
    in_memory = store is None and len(rows) * math.prod(plan.shape) <= MAX_BYTES_IN_MEMORY
    array = np.empty((len(rows), *plan.shape), dtype=np.uint8) if in_memory else None
    hashes = np.empty((len(rows), HASH_BYTES), dtype=np.uint8)
    is_valid = np.zeros(len(rows), dtype=bool)
    count = 0
    decoded = _threaded(lambda row: plan.decode(files, row), rows, _block(plan))
    with ProgressLine(f"decoding {files.location.name}") as counter, closing(decoded) as results:
        for position, result in enumerate(results):
            counter.progress(position, len(rows))
            if isinstance(result, UsageError):
                skips.take(result)
                continue
            if array is not None:
                array[count] = result.pixels
            if store is not None:
                store.add(result.pixels)
            decoding.take(result.notes)
            hashes[count] = np.frombuffer(result.hash, dtype=np.uint8)
            is_valid[position] = True
            count += 1
    skips.check_images_left(count, len(files))
    if array is not None and count < len(array):
        array = array[:count].copy()
    return array, hashes[:count], rows[is_valid]


class _Lazy(Dataset):
    """Images that are decoded on each fetch, for sets larger than memory."""

    def __init__(
        self,
        name: str,
        plan: Preprocessing,
        files: EncodedFiles,
        rows: Indices,
        labels: Indices | None,
        class_names: Sequence[str],
        provenance: Mapping[str, str],
        hashes: Hashes,
        captions: StringArray | None,
    ) -> None:
        super().__init__(name, plan.shape, class_names, provenance)
        self._plan, self._files, self._rows = plan, files, rows
        self._labels, self._hashes, self._captions = labels, hashes, captions

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def decodes(self) -> bool:
        return True

    def hashes(self) -> Hashes:
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        pixels = np.empty((len(indices), *self.shape), dtype=np.uint8)
        rows = self._rows[indices]
        with closing(_threaded(lambda row: self._plan.pixels(self._files, row), rows, _block(self._plan))) as results:
            for position, result in enumerate(results):
                if isinstance(result, UsageError):  # it was readable when the set was opened
                    raise result
                pixels[position] = result
        return pixels

    def item_name(self, index: int) -> str:
        return self._files.title(int(self._rows[index]))


def _threaded(function: Callable[[int], R], rows: Indices, block: int) -> Generator[R | UsageError, None, None]:
    """The results in order, computed by a thread pool (Pillow releases the GIL while it decodes).

    A caller that stops early must close the generator: if the garbage collector closed it while a thread was being
    started, it would deadlock waiting for its own threads.
    """

    def attempt(row: int) -> R | UsageError:
        try:
            return function(row)
        except UsageError as error:
            return error

    def attempt_all(chunk: list[int]) -> list[R | UsageError]:
        return [attempt(row) for row in chunk]

    if num_threads == 1:
        yield from map(attempt, rows.tolist())
        return
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for start in range(0, len(rows), block):
            pending = rows[start : start + block].tolist()
            for done in pool.map(attempt_all, (pending[at : at + _TASK] for at in range(0, len(pending), _TASK))):
                yield from done


def _block(plan: Preprocessing) -> int:
    return max(1, min(_MAX_BLOCK, _MAX_BLOCK_BYTES // math.prod(plan.shape)))
