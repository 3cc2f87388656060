"""CIFAR's files, in a folder, in the published archive or as a single file, and the batches of each split."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.tar_index import read_members
from undiffuse.data.sources.layout.ignored_items import LINK, REPEATED, IgnoredItems
from undiffuse.data.sources.layout.published_files import CIFAR_BINARY, CIFAR_NAMES, CIFAR_PYTHON
from undiffuse.data.sources.layout.tree import open_tar
from undiffuse.errors import UsageError

MAX_BYTES = 2**28  # limit for one file; the largest is 155 MB


class Store(ABC):
    """Files of a folder or an archive, accessed by base name."""

    location: Path
    names: list[str]
    left_out: IgnoredItems

    @abstractmethod
    def title(self, name: str) -> str:
        """Name of a file in messages."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read the content of a file."""


class FolderStore(Store):
    """Files directly in a folder."""

    def __init__(self, folder: Path) -> None:
        self.location, self.left_out = folder, IgnoredItems()
        self.names = sorted(path.name for path in folder.iterdir() if path.is_file())

    def title(self, name: str) -> str:
        return str(self.location / name)

    def read(self, name: str) -> bytes:
        file = FileAt(self.location / name)
        _check_size_limit(self.title(name), file.size)
        return file.read(0, file.size)


class TarStore(Store):
    """Members of an archive by base name, read without unpacking; the last member of a repeated name is used."""

    def __init__(self, path: Path) -> None:
        self.location, self._place, self.left_out = path, open_tar(path), IgnoredItems()
        self._location_of, full_name_of = dict[str, tuple[int, int]](), dict[str, str]()
        for member in read_members(self._place):
            name = member.name.rpartition("/")[2]
            if not member.is_plain:
                self.left_out.add(LINK, member.name)
                continue
            if name in full_name_of:
                self.left_out.add(REPEATED, full_name_of[name])
            self._location_of[name], full_name_of[name] = (member.offset, member.size), member.name
        self.names = sorted(self._location_of)

    def title(self, name: str) -> str:
        return f"{self.location}!{name}"

    def read(self, name: str) -> bytes:
        offset, size = self._location_of[name]
        _check_size_limit(self.title(name), size)
        return self._place.read(offset, size)


class CifarFiles(NamedTuple):
    """Batches of a split in order, all in the binary or all in the Python layout."""

    store: Store
    batches: list[str]
    binary: bool


def find_batches(location: Path, split: str | None) -> CifarFiles:
    """Find the batches of a split at a path.

    Raises:
        UsageError: if the path does not exist, there is no batch of the split, or both layouts are present.
    """
    if location.is_file() and not location.name.lower().endswith((".tar.gz", ".tgz", ".tar")):
        return _single(location, split)
    store = _store(location)
    requested = split or "train"
    found = {
        binary: _natural_order(name for name in store.names if _split_of(name, pattern) == requested)
        for binary, pattern in ((True, CIFAR_BINARY), (False, CIFAR_PYTHON))
    }
    if found[True] and found[False]:
        raise UsageError(
            f"{location}: contains both the binary and the Python layout of CIFAR; name a folder with one of them"
        )
    binary = bool(found[True])
    if not found[binary]:
        expected = "test_batch.bin or test" if requested == "test" else "data_batch_1.bin, data_batch_1 or train"
        raise UsageError(f"{location}: no batch of the split {requested!r}; expected {expected}")
    _check_consecutive(store, found[binary])
    return CifarFiles(store, found[binary], binary)


def _store(location: Path) -> Store:
    if not location.exists():
        raise UsageError(f"{location}: no such file or folder; expected CIFAR's batches or their .tar.gz")
    if location.is_file():
        return TarStore(location)
    store = FolderStore(location)
    if any(_split_of(name, pattern) for name in store.names for pattern in (CIFAR_BINARY, CIFAR_PYTHON)):
        return store
    inner = sorted(path for path in location.glob("cifar-10*-*") if path.is_dir())
    if len(inner) > 1:
        raise UsageError(f"{location}: contains {' and '.join(path.name for path in inner)}; name one of them")
    return FolderStore(inner[0]) if inner else store


def _single(path: Path, split: str | None) -> CifarFiles:
    """A single file with any name."""
    pattern = CIFAR_BINARY if path.suffix == ".bin" else CIFAR_PYTHON
    known = _split_of(path.name, pattern)
    if split is not None and known and known != split:
        raise UsageError(f"{path}: is of the split {known!r}, not {split!r}; name the folder to choose")
    return CifarFiles(FolderStore(path.parent), [path.name], path.suffix == ".bin")


def _split_of(name: str, pattern: re.Pattern[str]) -> str:
    match = pattern.fullmatch(name)
    if match is None or name in CIFAR_NAMES:
        return ""
    return "test" if match["split"].startswith("test") else "train"


def _natural_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def _check_consecutive(store: Store, batches: list[str]) -> None:
    """Raise ``UsageError`` if a numbered batch is missing."""
    numbers = [int(match[1]) for name in batches if (match := re.fullmatch(r"data_batch_(\d+)(\.bin)?", name))]
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    if missing:
        raise UsageError(
            f"{store.location}: data_batch_{missing[0]} is missing among {len(numbers)} batches; fetch it again"
        )


def _check_size_limit(title: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UsageError(f"{title}: {size} bytes are more than the {MAX_BYTES} allowed for a CIFAR file")
