"""A folder of pictures as a data set: decoded once into memory where it fits, else whenever fetched."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from undiffuse.data.config import FolderConfig
from undiffuse.data.formats.folder_files import class_of_each, list_pictures
from undiffuse.data.pictures import (
    Header,
    automatic_side,
    fit_picture,
    read_header,
    read_picture,
    to_array,
    with_channels,
    without_warnings,
)
from undiffuse.data.source import ArrayDataset, Dataset, Indices, hash_item
from undiffuse.errors import UsageError

MAX_BYTES_IN_MEMORY = 2 * 2**30
_MAX_BLOCK, _MAX_BLOCK_BYTES = 256, 2**28  # what the threads may have finished before it is taken up
_NAMED = 3  # skipped files named in the report; the rest are counted

_log = logging.getLogger("undiffuse.data")
Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Plan:
    """What every picture is made into."""

    size: tuple[int, int]
    channels: int
    fit: str
    upscale: bool
    background: int | tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return (self.channels, *self.size)

    def pixels(self, path: Path) -> Pixels:
        """(C, H, W) of one file; errors begin with its path."""
        return self._fitted(read_picture(path, self.background), path)

    def pixels_and_hash(self, path: Path) -> tuple[Pixels, bytes]:
        """The same, and the hash of the picture as found."""
        image = read_picture(path, self.background)
        return self._fitted(image, path), _content_hash(image)

    def _fitted(self, image: Image.Image, path: Path) -> Pixels:
        try:
            fitted = fit_picture(image, self.size, self.fit, self.upscale, self.background)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        return to_array(with_channels(fitted, self.channels))


class _Found(NamedTuple):
    """Files that could be read, by their place in the listing, and why others could not."""

    rows: list[int]
    skipped: list[str]


def load(config: FolderConfig) -> Dataset:
    """The pictures of a folder, in the sorted order of their relative paths.

    Raises:
        UsageError: no pictures, options that do not fit them, or (unless ``on_error=skip``) a file that is damaged,
            too large or smaller than the training size; the message names the file.
    """
    root = config.location
    listing = list_pictures(root)
    labels, class_names = class_of_each(listing.pictures, config.labels, root)
    paths = [root / picture for picture in listing.pictures]
    with without_warnings():
        headers, found = _read(paths, lambda path: read_header(path, config.background), config.on_error)
        plan, remarks = make_plan(config, headers)
        dataset = _Reader(config, plan, paths, found).read(labels, class_names)
    others = {"other_files_passed_over": str(listing.num_others)} if listing.num_others else {}
    dataset.provenance.update({**others, **remarks})
    for key in ("skipped", "size_chosen"):
        if key in dataset.provenance:
            _log.warning("%s: %s", root, dataset.provenance[key])
    return dataset


def make_plan(config: FolderConfig, headers: Sequence[Header]) -> tuple[Plan, dict[str, str]]:
    """Training size and channels for these pictures, and a remark where the size was chosen here."""
    channels = config.channels or (1 if all(header.grey for header in headers) else 3)
    sizes = {(header.height, header.width) for header in headers}
    remarks: dict[str, str] = {}
    size, upscale = config.target, config.upscale
    if size is None and len(sizes) == 1:
        size = next(iter(sizes))
    elif size is None:
        side = automatic_side(headers)
        small = sum(min(header.height, header.width) < side for header in headers)
        smallest, largest = min(sizes, key=min), max(sizes, key=min)
        remarks["size_chosen"] = (
            f"the pictures differ in size ({smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]}, height x width); "
            f"taking size={side}, {small} smaller ones enlarged; set size to choose another"
        )
        size, upscale = (side, side), True
    return Plan(size, channels, config.fit, upscale, config.background), remarks


class _Reader:
    """One pass over the files: checks and hashes each, and keeps the pixels where they fit into memory."""

    def __init__(self, config: FolderConfig, plan: Plan, paths: list[Path], found: _Found) -> None:
        self.config, self.plan, self.paths, self.found = config, plan, paths, found

    def read(self, labels: list[int] | None, class_names: list[str]) -> Dataset:
        """The data set of the files that could be read."""
        readable = [self.paths[row] for row in self.found.rows]
        fits = len(readable) * math.prod(self.plan.shape) <= MAX_BYTES_IN_MEMORY
        array = np.empty((len(readable), *self.plan.shape), dtype=np.uint8) if fits else None
        hashes, kept = self._pass(readable, array)
        rows = [self.found.rows[row] for row in kept.rows]
        paths = [self.paths[row] for row in rows]
        kept_labels = None if labels is None else np.array([labels[row] for row in rows], dtype=np.int64)
        provenance = self._provenance([*self.found.skipped, *kept.skipped])
        if array is None:
            return _LazyFolder(self.plan, paths, kept_labels, class_names, provenance, hashes)
        if len(rows) < len(array):
            array = array[: len(rows)].copy()
        names = [str(path) for path in paths]
        return ArrayDataset("folder", array, kept_labels, class_names, provenance, hashes, names)

    def _pass(self, paths: list[Path], array: Pixels | None) -> tuple[list[bytes], _Found]:
        hashes: list[bytes] = []
        found = _Found([], [])
        for row, result in enumerate(_threaded(paths, self.plan.pixels_and_hash, _block(self.plan))):
            if isinstance(result, UsageError):
                found.skipped.append(_skip_or_raise(result, self.config.on_error))
                continue
            if array is not None:
                array[len(hashes)] = result[0]
            hashes.append(result[1])
            found.rows.append(row)
        _refuse_nothing_left(found, len(paths))
        return hashes, found

    def _provenance(self, skipped: list[str]) -> dict[str, str]:
        provenance = {
            "source": str(self.config.location),
            "licence": "not stated: that of the pictures",
            "options": _options_text(self.config, self.plan),
        }
        if skipped:
            more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
            provenance["skipped"] = f"{len(skipped)} files left out: {'; '.join(skipped[:_NAMED])}{more}"
        return provenance


class _LazyFolder(Dataset):
    """Pictures decoded each time they are fetched, for sets larger than memory."""

    def __init__(
        self,
        plan: Plan,
        paths: list[Path],
        labels: Indices | None,
        class_names: Sequence[str],
        provenance: dict[str, str],
        hashes: list[bytes],
    ) -> None:
        super().__init__("folder", plan.shape, class_names, provenance)
        self._plan, self._paths, self._labels, self._hashes = plan, paths, labels, hashes

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def labels(self) -> Indices | None:
        return self._labels

    def hashes(self) -> list[bytes]:
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        pixels = np.empty((len(indices), *self.shape), dtype=np.uint8)
        paths = [self._paths[index] for index in indices]
        for row, result in enumerate(_threaded(paths, self._plan.pixels, _block(self._plan))):
            if isinstance(result, UsageError):  # it could be read a while ago
                raise result
            pixels[row] = result
        return pixels

    def item_name(self, index: int) -> str:
        return str(self._paths[index])


def _read(paths: list[Path], read: Callable[[Path], R], on_error: str) -> tuple[list[R], _Found]:
    results: list[R] = []
    found = _Found([], [])
    for row, path in enumerate(paths):
        try:
            results.append(read(path))
            found.rows.append(row)
        except UsageError as error:
            found.skipped.append(_skip_or_raise(error, on_error))
    _refuse_nothing_left(found, len(paths))
    return results, found


def _threaded(things: Sequence[T], function: Callable[[T], R], block: int) -> Iterator[R | UsageError]:
    """The results in order, by a few threads (Pillow lets go of the interpreter's lock while it works)."""

    def attempt(thing: T) -> R | UsageError:
        try:
            return function(thing)
        except UsageError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(things), block):
            yield from pool.map(attempt, things[start : start + block])


def _block(plan: Plan) -> int:
    return max(1, min(_MAX_BLOCK, _MAX_BLOCK_BYTES // math.prod(plan.shape)))


def _skip_or_raise(error: UsageError, on_error: str) -> str:
    if on_error == "skip":
        return str(error)
    raise UsageError(f"{error}; mend or remove it, or pass it over with on_error=skip") from None


def _refuse_nothing_left(found: _Found, count: int) -> None:
    if not found.rows:
        raise UsageError(f"none of the {count} pictures can be used; the first: {found.skipped[0]}")


def _content_hash(image: Image.Image) -> bytes:
    """Of the whole upright picture in RGB, so that neither file format nor training size matter."""
    return hash_item(b"%dx%d:" % image.size + image.convert("RGB").tobytes())


def _options_text(config: FolderConfig, plan: Plan) -> str:
    size = f"{plan.size[0]}x{plan.size[1]}"
    return f"size={size} channels={plan.channels} fit={plan.fit} upscale={plan.upscale} background={config.background}"
