"""Results and summaries of real images kept by content: what was computed once is not computed again.

An entry's name is the SHA-256 of everything that determines it, the source of this package included, so nothing is ever
out of date; it is only no longer used. All entries together take at most ``MAX_BYTES``: when one is written, the least
recently used are removed until the rest fits, and a summary above a quarter of that is not kept at all. The folder may
be deleted at any time. A damaged entry counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.provenance import source_sha256
from undiffuse.files import write_json
from undiffuse.models.files.weights import read_weights, save_weights
from undiffuse.sealed import read_json
from undiffuse.version import __version__

Rows = list[dict[str, Any]]

#: Of all entries together. The summary of a set over Inception-v3's features, half a GiB, must find room in it.
MAX_BYTES = 4 * 2**30
_LARGEST_SHARE = 4  # summaries above one over this of the limit would push all others out
_RESULTS, _SUMMARIES = "results", "summaries"


def cache_folder() -> Path:
    """``undiffuse`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "undiffuse"


def key_of(key: Mapping[str, Any]) -> str:
    """64 hex digits that change with any entry of ``key`` (plain values) and with the code that computes."""
    everything = {**key, "undiffuse": __version__, "source": source_sha256(), "torch": torch.__version__}
    return _digest(everything)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Cache:
    """Entries in a folder, safe to share between processes: each is written under another name and renamed.

    Args:
        folder: where; ``None`` keeps nothing and finds nothing.
        limit: bytes that all entries together may take.
    """

    def __init__(self, folder: Path | None, limit: int = MAX_BYTES) -> None:
        self.folder = folder
        self.limit = limit

    @classmethod
    def of_user(cls, enabled: bool = True) -> Cache:
        """The user's own, or one that keeps nothing."""
        return cls(cache_folder() if enabled else None)

    def results(self, key: Mapping[str, Any], make: Callable[[], Rows]) -> Rows:
        """The rows under this key, each with ``cached``: whether it was found here or made just now."""
        path = self._path(_RESULTS, key, ".json")
        if path is not None and (found := _read_results(path)) is not None:
            _touch(path)
            return [{**row, "cached": True} for row in found]
        rows = make()
        if path is not None:
            self._keep(lambda: write_json(path, {"results": rows, "sha256": _digest(rows), "of": dict(key)}))
        return [{**row, "cached": False} for row in rows]

    def tensors(self, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under this key, found here or made just now."""
        path = self._path(_SUMMARIES, key, ".safetensors")
        if path is not None and (found := _read_tensors(path)) is not None:
            _touch(path)
            return found
        tensors = make()
        if path is not None and sum(tensor.nbytes for tensor in tensors.values()) <= self.limit // _LARGEST_SHARE:
            self._keep(lambda: save_weights(path, tensors))
        return tensors

    def forget(self, key: Mapping[str, Any]) -> None:
        """Drop the summary under this key, which was found and could not be used."""
        path = self._path(_SUMMARIES, key, ".safetensors")
        if path is not None:
            path.unlink(missing_ok=True)

    def _keep(self, write: Callable[[], object]) -> None:
        """A cache that cannot be written (a full disk, a read-only home) costs time and must not cost the result."""
        assert self.folder is not None
        with contextlib.suppress(UndiffuseError, OSError):
            write()
            _make_room(self.folder, self.limit)

    def _path(self, kind: str, key: Mapping[str, Any], ending: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / f"{key_of(key)}{ending}"


def _touch(path: Path) -> None:
    """The time of a file is that of its last use; another process may have removed it meanwhile."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _make_room(folder: Path, limit: int) -> None:
    """Remove what was not used for longest until the rest fits; others may be doing the same to the same files."""
    entries = sorted(_entries(folder))
    excess = sum(size for _, size, _ in entries) - limit
    for _, size, path in entries:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


def _entries(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(time in ns, bytes, path) of each file; what a killed process left half-written is one, and grows old too."""
    for kind in (_RESULTS, _SUMMARIES):  # weights that were downloaded lie next to them, and stay
        for path in (folder / kind).glob("*"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    yield status.st_mtime_ns, status.st_size, path


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
