"""Decoded images kept on disk, so that a large set is decoded once and not in every epoch of every run.

A set has one place, named after where it is read from and by which options, and a stamp: the names, sizes and times of
its files. A place whose stamp is another, or that is damaged, is built anew, and the new takes the old one's place. The
folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL

from undiffuse.data.config import EncodedConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.decoding.image import DECODING
from undiffuse.data.sources.layout.folder_files import is_shown
from undiffuse.data.sources.layout.tar_files import find_shards
from undiffuse.data.storage.mapped import (
    CHECKS,
    HASHES,
    INFO,
    LABELS,
    PIXELS,
    MappedSet,
    read_info,
    write_info,
    write_strings,
)
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import replacing
from undiffuse.leftovers import remove_leftovers_of, temporary_next_to
from undiffuse.version import __version__

#: What a set may take unasked of the free space of the disk.
SHARE_OF_FREE = 0.5
#: Raised when more or other things are read of the same files, so that no cache of before is taken for the set.
READING = 3
_NOT_OF_THE_KEY = {"validation_fraction", "classes", "cache"}

_STAMPED: ContextVar[tuple[Path, str] | None] = ContextVar("stamped", default=None)

_log = logging.getLogger("undiffuse.data")


def cache_root() -> Path:
    """``undiffuse/data`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "undiffuse" / "data"


def cache_folder_of(config: EncodedConfig) -> Path:
    """The folder that the set of this configuration is kept in, there or not."""
    root = cache_root() if config.cache in ("auto", "none") else Path(config.cache).expanduser()
    options = config.model_dump(mode="json", exclude=_NOT_OF_THE_KEY) | {"path": str(config.location.absolute())}
    digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode("utf-8", "surrogateescape"), digest_size=10)
    return root / digest.hexdigest()


def stamp_of(config: EncodedConfig) -> str:
    """Changes with the names, sizes and times of the files read, and with what decodes them; opens no file."""
    location = config.location
    total = 0
    for root in [*([location] if location.exists() else find_shards(location)), *config.companions]:
        for name, status in _files_below(root):
            fact = f"{name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
            # a sum does not mind the order, so that a folder of millions need not be sorted in memory
            total += int.from_bytes(hashlib.blake2b(fact, digest_size=16).digest(), "little")
    decoders = f"decoding {DECODING} pillow {PIL.__version__} heic {heic.version() or 'not read'}"
    return f"{total % 2**128:032x} undiffuse {__version__} reading {READING} {decoders}"


@contextmanager
def stamped(config: EncodedConfig) -> Iterator[None]:
    """While a set is read: it is kept under the stamp of before, so that a file that is added meanwhile shows."""
    token = _STAMPED.set(_stamped_now(config))
    try:
        yield
    finally:
        _STAMPED.reset(token)


def _stamped_now(config: EncodedConfig) -> tuple[Path, str] | None:
    """A set's place and stamp; none where it is not to be kept, or cannot be read, as its reader will say."""
    if config.cache == "none":
        return None
    try:
        return cache_folder_of(config), stamp_of(config)
    except (OSError, UndiffuseError):
        return None


def _stamp_to_keep(config: EncodedConfig) -> str:
    place, stamp = _STAMPED.get() or (None, "")
    return stamp if place == cache_folder_of(config) else stamp_of(config)


def open_cached(config: EncodedConfig) -> Dataset | None:
    """The set as it is kept, or ``None`` where it is not, or not any more."""
    place = cache_folder_of(config)
    if config.cache == "none" or not (place / INFO).is_file():
        return None
    try:
        if read_info(place)["stamp"] != stamp_of(config):
            return None
        kept = MappedSet(place)
    except UndiffuseError as error:
        _log.warning("%s; the cache is built anew", error)
        return None
    on_progress(config.location, kept.provenance)
    return kept


def on_progress(location: Path, provenance: Mapping[str, str]) -> None:
    """Say what a person should know of a set when it is opened."""
    for key in ("skipped", "left_out", "splits", "masks", "classes_joined", "classes_called", "size_chosen"):
        if key in provenance:
            _log.warning("%s: %s", location, provenance[key])


class CacheWriter:
    """Takes the images of a set one by one as they are decoded, under a temporary name.

    A disk that is full or fails while it is filled costs the cache and not the set.

    Args:
        config: the set's.
        count: images that may come.
    """

    def __init__(self, config: EncodedConfig, count: int) -> None:
        self.place, self._config, self._stamp = cache_folder_of(config), config, _stamp_to_keep(config)
        self._folder = temporary_next_to(self.place).with_suffix(".pixels.tmp")
        self._folder.mkdir(parents=True)
        self._pixels = (self._folder / PIXELS).open("wb")
        self._checks = array("I")
        self.valid = True

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """One more image."""
        if not self.valid:
            return
        try:
            self._pixels.write(pixels.data)
            self._checks.append(zlib.crc32(pixels.data))
        except OSError as error:
            self._give_up(error)

    def keep(self, dataset: Dataset) -> Dataset:
        """Put the set in its place.

        Args:
            dataset: what else is kept of the images: hashes, labels, captions, names.

        Returns:
            the set as it is kept now, or ``dataset`` where it could not be.
        """
        if self.valid:
            try:
                self._put_in_place(dataset)
                return MappedSet(self.place)
            except (OSError, UndiffuseError) as error:
                self._give_up(error)
        return dataset

    def discard(self) -> None:
        """Remove what is under the temporary name, if anything."""
        self._pixels.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _put_in_place(self, dataset: Dataset) -> None:
        self._pixels.close()
        (self._folder / CHECKS).write_bytes(np.array(self._checks, dtype="<u4").data)
        (self._folder / HASHES).write_bytes(np.ascontiguousarray(dataset.hashes()).data)
        if dataset.labels is not None:
            (self._folder / LABELS).write_bytes(np.ascontiguousarray(dataset.labels, dtype="<i8").data)
        write_strings(self._folder, "titles", map(dataset.item_name, range(len(dataset))))
        if dataset.captions is not None:
            write_strings(self._folder, "captions", dataset.captions)
        write_info(self._folder, dataset, self._stamp)
        with replacing(self.place) as temporary:
            self._folder.rename(temporary)

    def _give_up(self, error: Exception) -> None:
        self.valid = False
        self.discard()
        _log.warning("%s: not kept decoded in %s (%s); it is decoded while training", *self._whom(), error)

    def _whom(self) -> tuple[Path, Path]:
        return self._config.location, self.place


@contextmanager
def caching(config: EncodedConfig, count: int, image_bytes: int, fits_in_memory: bool) -> Iterator[CacheWriter | None]:
    """Where to put the images of a set as they are decoded, or ``None`` where they are not to be kept on disk.

    Args:
        config: the set's; ``cache`` decides: ``auto`` keeps what does not fit into memory, and only where it takes no
            more than half of the free space; a path keeps any set there.
        count: how many there are.
        image_bytes: of one.
        fits_in_memory: whether all do.

    Raises:
        UsageError: they are to be kept at a path that cannot be written to or has no room.
    """
    wanted = config.cache != "none" and not (config.cache == "auto" and fits_in_memory)
    store = _store_for(config, count, count * image_bytes) if wanted else None
    try:
        yield store
    finally:
        if store is not None:
            store.discard()


def _store_for(config: EncodedConfig, count: int, needed: int) -> CacheWriter | None:
    place = cache_folder_of(config)
    remove_leftovers_of(place)
    share = SHARE_OF_FREE if config.cache == "auto" else 1.0
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place.parent).free
        problem = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free" if needed > share * free else ""
        store = None if problem else CacheWriter(config, count)
    except OSError as error:
        store, problem = None, error.strerror or str(error)
    if problem and config.cache != "auto":
        raise UsageError(f"cannot keep decoded images in data.cache={config.cache}: {problem}; name another place")
    if problem:
        _log.warning("%s: not kept decoded in %s: %s; decoded while training", config.location, place.parent, problem)
    elif config.cache == "auto":
        size = f"{needed / 1e9:.1f} GB"
        _log.warning("%s: kept decoded in %s, %s; prevented by data.cache=none", config.location, place, size)
    return store


def _files_below(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Each shown file below a folder, or the file itself; each real folder once, so that a loop of links ends."""
    if not root.is_dir():
        if root.exists():
            yield str(root), root.stat()
        return
    seen, waiting = {root.resolve()}, [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in filter(lambda entry: is_shown(entry.name), entries):
                if not entry.is_dir():
                    yield entry.path, entry.stat(follow_symlinks=entry.is_file())
                elif (real := Path(entry.path).resolve()) not in seen:
                    seen.add(real)
                    waiting.append(Path(entry.path))
