"""Listing of a source without decoding: its files, labels and captions.

Used by ``data prepare``, which decodes the images itself in several processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.data.dataset import Dataset, Hashes, Indices
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray

_ONLY_LISTS: ContextVar[bool] = ContextVar("only_lists", default=False)


class FileListing(Dataset):
    """Encoded images that are listed but not opened; an item is the index of its file.

    Args:
        name: registry name of the source.
        files: the encoded files.
        skips: items skipped by the reader.
        labels, class_names, captions, provenance: see ``Dataset``.
    """

    def __init__(
        self,
        name: str,
        files: EncodedFiles,
        labels: npt.ArrayLike | None,
        class_names: Sequence[str],
        captions: Sequence[str] | None,
        provenance: Mapping[str, str],
        skips: Skips,
    ) -> None:
        super().__init__(name, (), class_names, provenance)
        self.files, self.skips = files, skips
        self._labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self._captions = None if captions is None else StringArray.of(captions)

    def __len__(self) -> int:
        return len(self.files)

    def hashes(self) -> Hashes:
        raise TypeError("images that are listed only have no hashes")

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        return np.array(indices, dtype=np.int64)

    def item_name(self, index: int) -> str:
        return self.files.title(index)


def only_lists() -> bool:
    """Whether encoded images are listed instead of decoded."""
    return _ONLY_LISTS.get()


@contextmanager
def listing() -> Iterator[None]:
    """Context in which encoded images are listed instead of decoded."""
    token = _ONLY_LISTS.set(True)
    try:
        yield
    finally:
        _ONLY_LISTS.reset(token)
