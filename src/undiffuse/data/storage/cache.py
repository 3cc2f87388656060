"""Disk cache of decoded images, so that a large set is decoded once and not in every epoch of every run.

A set has one cache folder, named by a hash of its location and options, and a stamp: the names, sizes and modification
times of its files. If the stamp differs or the cache is corrupt, it is rebuilt and replaced. The folder may be deleted
at any time.
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
from undiffuse.data.readers.decoding.image import DECODER_VERSION
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
from undiffuse.user_cache import cache_home
from undiffuse.version import __version__

#: Maximum fraction of the free disk space that a cache takes with ``cache=auto``.
SHARE_OF_FREE = 0.5
#: Version of the readers, incremented when they read the same files differently; it invalidates earlier caches.
READING = 4
_NOT_OF_THE_KEY = {"validation_fraction", "classes", "class_captions", "class_share", "cache"}

#: Provenance that is logged when a set is opened.
_LOGGED = (
    *("skipped", "left_out", "splits", "masks", "classes_joined", "classes_called", "size_chosen"),
    "captions_missing",
)

_STAMPED: ContextVar[tuple[Path, str] | None] = ContextVar("stamped", default=None)

_log = logging.getLogger("undiffuse.data")


def cache_root() -> Path:
    """``undiffuse/data`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` if that is not set."""
    return cache_home() / "undiffuse" / "data"


def cache_folder_of(config: EncodedConfig) -> Path:
    """The cache folder for this configuration, whether it exists or not."""
    root = cache_root() if config.cache in ("auto", "none") else Path(config.cache).expanduser()
    options = config.model_dump(mode="json", exclude=_NOT_OF_THE_KEY) | {"path": str(config.location.absolute())}
    digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode("utf-8", "surrogateescape"), digest_size=10)
    return root / digest.hexdigest()


def stamp_of(config: EncodedConfig) -> str:
    """A stamp of the names, sizes and modification times of the files and of the decoder versions; opens no file."""
    location = config.location
    total = 0
    for root in [*([location] if location.exists() else find_shards(location)), *config.companions]:
        for name, status in _files_below(root):
            fact = f"{name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
            # a sum is independent of the order, so that millions of files need not be sorted in memory
            total += int.from_bytes(hashlib.blake2b(fact, digest_size=16).digest(), "little")
    decoders = f"decoding {DECODER_VERSION} pillow {PIL.__version__} heic {heic.version() or 'not read'}"
    return f"{total % 2**128:032x} undiffuse {__version__} reading {READING} {decoders}"


@contextmanager
def stamped(config: EncodedConfig) -> Iterator[None]:
    """Fix the stamp of a set while it is read, so that files added meanwhile invalidate the cache."""
    token = _STAMPED.set(_stamped_now(config))
    try:
        yield
    finally:
        _STAMPED.reset(token)


def _stamped_now(config: EncodedConfig) -> tuple[Path, str] | None:
    """Cache folder and stamp of a set; ``None`` if it is not cached, or unreadable (the reader raises the error)."""
    if config.cache == "none":
        return None
    try:
        return cache_folder_of(config), stamp_of(config)
    except (OSError, UndiffuseError):
        return None


def _stamp_to_keep(config: EncodedConfig) -> str:
    folder, stamp = _STAMPED.get() or (None, "")
    return stamp if folder == cache_folder_of(config) else stamp_of(config)


def open_cached(config: EncodedConfig) -> Dataset | None:
    """The cached set, or ``None`` if there is no valid cache."""
    folder = cache_folder_of(config)
    if config.cache == "none" or not (folder / INFO).is_file():
        return None
    try:
        if read_info(folder)["stamp"] != stamp_of(config):
            return None
        cached = MappedSet(folder)
    except UndiffuseError as error:
        _log.warning("%s; the cache is rebuilt", error)
        return None
    log_provenance(config.location, cached.provenance)
    return cached


def log_provenance(location: Path, provenance: Mapping[str, str]) -> None:
    """Log what the user should know about a set when it is opened."""
    for key in _LOGGED:
        if key in provenance:
            _log.warning("%s: %s", location, provenance[key])


class CacheWriter:
    """Writes the decoded images of a set one by one, under a temporary name.

    If the disk is full or fails, the cache is discarded and the set is used without it.

    Args:
        config: configuration of the set.
        count: maximum number of images.
    """

    def __init__(self, config: EncodedConfig, count: int) -> None:
        self.folder, self._config, self._stamp = cache_folder_of(config), config, _stamp_to_keep(config)
        self._temporary = temporary_next_to(self.folder).with_suffix(".pixels.tmp")
        self._temporary.mkdir(parents=True)
        self._pixels = (self._temporary / PIXELS).open("wb")
        self._checks = array("I")
        self.valid = True

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Append one image."""
        if not self.valid:
            return
        try:
            self._pixels.write(pixels.data)
            self._checks.append(zlib.crc32(pixels.data))
        except OSError as error:
            self._give_up(error)

    def keep(self, dataset: Dataset) -> Dataset:
        """Complete the cache and move it to its final folder.

        Args:
            dataset: source of the hashes, labels, captions and names.

        Returns:
            The cached set, or ``dataset`` if it could not be written.
        """
        if self.valid:
            try:
                self._put_in_place(dataset)
                return MappedSet(self.folder)
            except (OSError, UndiffuseError) as error:
                self._give_up(error)
        return dataset

    def discard(self) -> None:
        """Remove the temporary folder if it exists."""
        self._pixels.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _put_in_place(self, dataset: Dataset) -> None:
        self._pixels.close()
        (self._temporary / CHECKS).write_bytes(np.array(self._checks, dtype="<u4").data)
        (self._temporary / HASHES).write_bytes(np.ascontiguousarray(dataset.hashes()).data)
        if dataset.labels is not None:
            (self._temporary / LABELS).write_bytes(np.ascontiguousarray(dataset.labels, dtype="<i8").data)
        write_strings(self._temporary, "titles", map(dataset.item_name, range(len(dataset))))
        if dataset.captions is not None:
            write_strings(self._temporary, "captions", dataset.captions)
        write_info(self._temporary, dataset, self._stamp)
        with replacing(self.folder) as temporary:
            self._temporary.rename(temporary)

    def _give_up(self, error: Exception) -> None:
        self.valid = False
        self.discard()
        location = self._config.location
        _log.warning("%s: not cached in %s (%s); images are decoded during training", location, self.folder, error)


@contextmanager
def caching(config: EncodedConfig, count: int, image_bytes: int, fits_in_memory: bool) -> Iterator[CacheWriter | None]:
    """A writer for the decoded images of a set, or ``None`` if they are not cached on disk.

    Args:
        config: configuration of the set. With ``cache=auto`` a set is cached if it does not fit into memory and takes
            at most half of the free disk space; with a path it is always cached there.
        count: number of images.
        image_bytes: size of one decoded image.
        fits_in_memory: whether all images fit into memory.

    Raises:
        UsageError: the given path is not writable or has not enough space.
    """
    enabled = config.cache != "none" and not (config.cache == "auto" and fits_in_memory)
    store = _store_for(config, count, count * image_bytes) if enabled else None
    try:
        yield store
    finally:
        if store is not None:
            store.discard()


def _store_for(config: EncodedConfig, count: int, needed: int) -> CacheWriter | None:
    folder = cache_folder_of(config)
    remove_leftovers_of(folder)
    fraction = SHARE_OF_FREE if config.cache == "auto" else 1.0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        problem = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free" if needed > fraction * free else ""
        store = None if problem else CacheWriter(config, count)
    except OSError as error:
        store, problem = None, error.strerror or str(error)
    if problem and config.cache != "auto":
        raise UsageError(f"cannot cache decoded images in data.cache={config.cache}: {problem}; name another folder")
    if problem:
        text = "%s: not cached in %s: %s; images are decoded during training"
        _log.warning(text, config.location, folder.parent, problem)
    elif config.cache == "auto":
        size = f"{needed / 1e9:.1f} GB"
        _log.warning("%s: decoded images cached in %s, %s; disable by data.cache=none", config.location, folder, size)
    return store


def _files_below(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All non-hidden files below a folder, or the file itself; each real folder once, in case of link loops."""
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
