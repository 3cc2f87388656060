"""Content-addressed cache of results and of summaries of real images.

An entry's name is the SHA-256 of everything that determines it, including the source of this package, so no entry is
ever stale. All entries together take at most ``MAX_BYTES``: when one is written, the least recently used entries are
removed until the rest fits, and a summary above a quarter of the limit is not stored. The folder may be deleted at any
time. A corrupt entry counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.checksums import read_json
from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.provenance import source_sha256
from undiffuse.files import write_json
from undiffuse.models.files.weights import read_weights, save_weights
from undiffuse.user_cache import cache_home, evict
from undiffuse.version import __version__

Rows = list[dict[str, Any]]

#: Of all entries together. The summary of a set over Inception-v3's features, half a GiB, must fit.
MAX_BYTES = 4 * 2**30
_MAX_FRACTION = 4  # summaries above 1 / 4 of the limit would evict all others
_RESULTS, _SUMMARIES = "results", "summaries"


def cache_folder() -> Path:
    """``undiffuse`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` if that is not set."""
    return cache_home() / "undiffuse"


def key_of(key: Mapping[str, Any]) -> str:
    """A hash of 64 hex digits over ``key`` (plain values) and the version of the code."""
    everything = {**key, "undiffuse": __version__, "source": source_sha256(), "torch": torch.__version__}
    return _digest(everything)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Cache:
    """Entries in a folder, safe to share between processes: each is written to a temporary file and renamed.

    Args:
        folder: where the entries are stored; ``None`` disables the cache.
        limit: maximum number of bytes of all entries together.
    """

    def __init__(self, folder: Path | None, limit: int = MAX_BYTES) -> None:
        self.folder = folder
        self.limit = limit

    @classmethod
    def of_user(cls, enabled: bool = True) -> Cache:
        """The cache in the user's cache folder, or a disabled one."""
        return cls(cache_folder() if enabled else None)

    def results(self, key: Mapping[str, Any], compute: Callable[[], Rows]) -> Rows:
        """The rows under this key, each with ``cached``: whether it was found or has just been computed."""
        path = self._path(_RESULTS, key, ".json")
        if path is not None and (found := _read_results(path)) is not None:
            _touch(path)
            return [{**row, "cached": True} for row in found]
        rows = compute()
        if path is not None:
            self._write(lambda: write_json(path, {"results": rows, "sha256": _digest(rows), "of": dict(key)}))
        return [{**row, "cached": False} for row in rows]

    def tensors(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under this key, found or computed now."""
        path = self._path(_SUMMARIES, key, ".safetensors")
        if path is not None and (found := _read_tensors(path)) is not None:
            _touch(path)
            return found
        tensors = compute()
        if path is not None and sum(tensor.nbytes for tensor in tensors.values()) <= self.limit // _MAX_FRACTION:
            self._write(lambda: save_weights(path, tensors))
        return tensors

    def invalidate(self, key: Mapping[str, Any]) -> None:
        """Remove the summary under this key, which could not be used."""
        path = self._path(_SUMMARIES, key, ".safetensors")
        if path is not None:
            path.unlink(missing_ok=True)

    def _write(self, write: Callable[[], object]) -> None:
        """Write an entry; errors (a full disk, a read-only home) are ignored because the result does not need it."""
        assert self.folder is not None
        with contextlib.suppress(UndiffuseError, OSError):
            write()
            evict(_files_of(self.folder), self.limit)

    def _path(self, kind: str, key: Mapping[str, Any], ending: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / f"{key_of(key)}{ending}"


def _touch(path: Path) -> None:
    """Set the file's modification time to its last use; another process may have removed it."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _files_of(folder: Path) -> Iterator[Path]:
    """All files of a cache, including partial files of killed processes."""
    for kind in (_RESULTS, _SUMMARIES):  # downloaded weights are next to them and are not removed
        yield from (folder / kind).glob("*")


def _read_results(path: Path) -> Rows | None:
    try:
        record = read_json(path)
        rows = record["results"]
        valid = record["sha256"] == _digest(rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return list(rows) if valid else None


def _read_tensors(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        return read_weights(path)
    except UndiffuseError:
        return None
