"""Cache of the features of texts, in the user's cache folder.

Features are found by the SHA-256 of the text, in a folder named by a hash of all else that determines them. Each call
writes one file under a name of its own content, so several processes may write at once; all together take at most
``MAX_BYTES``, the oldest files being removed. The folder may be deleted at any time. A damaged file counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from undiffuse.errors import UndiffuseError
from undiffuse.files import replacing
from undiffuse.user_cache import cache_home, evict

#: Of all files together.
MAX_BYTES = 4 * 2**30
_FEATURES, _COUNTS, _HASHES, _CHECK = "features", "counts", "hashes", "crc32"

_log = logging.getLogger("undiffuse")


def cache_root() -> Path:
    """``undiffuse/text`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` if that is not set."""
    return cache_home() / "undiffuse" / "text"


def feature_folder(key: Mapping[str, Any]) -> Path:
    """The folder of the features that a key determines.

    Args:
        key: plain values.
    """
    return cache_root() / hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:20]


class FeatureFiles:
    """Features of texts in the files of a folder.

    Args:
        folder: see ``feature_folder``.
        width: D, features of a token.
        limit: of all files of the cache together, in bytes.
    """

    def __init__(self, folder: Path, width: int, limit: int = MAX_BYTES) -> None:
        self.folder, self._width, self._limit = folder, width, limit

    def read(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """The features (n, D) float32 of those texts that are found.

        Args:
            texts: texts to look for.
        """
        wanted = {_hash_of(text): text for text in texts}
        found = dict[str, Tensor]()
        for path in sorted(self.folder.glob("*.safetensors")):
            if len(found) == len(wanted):
                break
            with contextlib.suppress(SafetensorError, OSError, ValueError, KeyError, RuntimeError):
                found |= self._read(path, wanted)
        return found

    def _read(self, path: Path, wanted: Mapping[bytes, str]) -> dict[str, Tensor]:
        with safe_open(path, "pt") as file:
            hashes, counts = file.get_tensor(_HASHES), file.get_tensor(_COUNTS).tolist()
            here = [(row, wanted.get(bytes(one))) for row, one in enumerate(hashes.tolist())]
            if not any(text is not None for _, text in here):
                return {}
            tensors = {name: file.get_tensor(name) for name in (_FEATURES, _COUNTS, _HASHES)}
            stated = (file.metadata() or {})[_CHECK]
        if stated != _check_of(tensors) or tensors[_FEATURES].shape != (sum(counts), self._width):
            raise ValueError("damaged")
        os.utime(path)
        rows = tensors[_FEATURES].split(counts)
        return {text: rows[row].clone() for row, text in here if text is not None}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Write features (n, D) by text; a full disk or a read-only folder is reported and has no effect on the result.

        Args:
            rows: features by text.
        """
        hashes = [_hash_of(text) for text in rows]
        tensors = {
            _FEATURES: torch.cat([*rows.values()]),
            _COUNTS: torch.tensor([len(row) for row in rows.values()]),
            _HASHES: torch.tensor([list(one) for one in hashes], dtype=torch.uint8),
        }
        name = hashlib.sha256(b"".join(hashes)).hexdigest()[:20]
        if tensors[_FEATURES].nbytes > self._limit // 4:
            return
        try:
            with replacing(self.folder / f"{name}.safetensors") as temporary:
                save_file(tensors, temporary, metadata={_CHECK: _check_of(tensors)})
            evict(self.folder.parent.glob("*/*.safetensors"), self._limit)
        except (UndiffuseError, OSError) as error:
            _log.warning("features of captions were not cached in %s (%s)", self.folder, error)


def _hash_of(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check_of(tensors: Mapping[str, Tensor]) -> str:
    """A checksum over the bytes of the tensors."""
    check = 0
    for name in sorted(tensors):
        check = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().data, check)
    return f"{check:08x}"
