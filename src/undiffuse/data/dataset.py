"""Data sets: fixed sequences of items with optional class labels and captions, accessed by index.

Images stay uint8 (C, H, W) until they are on the device; points are float32 (D,). Every item has a content hash,
which decides whether it is in the training or the validation split.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undiffuse.core.per_sample import PerRow
from undiffuse.core.space import Space
from undiffuse.data.given import Given
from undiffuse.data.readers.text import composed
from undiffuse.data.storage.computed_texts import Strings, digest_of, stored, texts_at
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]

HASH_BYTES = 16


@dataclass(frozen=True)
class Batch:
    """A batch of items of a data set.

    Args:
        items: uint8 (B, C, H, W) images or float32 (B, D) points.
        given: labels and captions, if the set has them.
        indices: (B,) int64 positions of the items in the data set.
        row_weights: (B,) float32, weights of the items in the mean of their losses; None for equal weights.
    """

    items: Tensor
    given: Given
    indices: Tensor
    row_weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device | str) -> Batch:
        """Move the batch to another device; images stay uint8."""
        weights = None if self.row_weights is None else self.row_weights.to(device)
        return Batch(self.items.to(device), self.given.to(device), self.indices.to(device), weights)

    @property
    def captions(self) -> Sequence[str]:
        """One text per item; empty if the set has no captions."""
        return self.given.captions or ()

    @property
    def x_0(self) -> Tensor:
        """Items as float32: images scaled to [-1, 1] by u / 127.5 - 1, points unchanged."""
        return self.items.float() / 127.5 - 1 if self.items.dtype == torch.uint8 else self.items


class Dataset(ABC):
    """Base class of data sets: a fixed sequence of items with the same interface for every source.

    Args:
        name: registry name of the source.
        shape: (C, H, W) of uint8 images or (D,) of float32 points.
        class_names: one name per class; empty if there are no labels.
        provenance: origin of the data, its licence if known, counts and options, as text.
    """

    #: Values of the properties ``labels`` and ``captions``, if the set has any.
    _labels: Indices | None = None
    _captions: Sequence[str] | None = None
    #: In training, probability of the last alternative of a caption with several; ``None`` for that of the others.
    last_caption_share: float | None = None

    def __init__(
        self, name: str, shape: Sequence[int], class_names: Sequence[str], provenance: Mapping[str, str]
    ) -> None:
        self.name = name
        self.shape = tuple(int(side) for side in shape)
        self.class_names = _unique_names(class_names)
        self.provenance = dict(provenance)

    @property
    def space(self) -> Space:
        """Space of the items: images with 256 levels, or points."""
        return Space.of_data(self.shape)

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def labels(self) -> Indices | None:
        """(N,) int64 in [0, num_classes), or ``None``."""
        return self._labels

    @property
    def captions(self) -> Sequence[str] | None:
        """One text per item, or ``None`` if the set has none; see ``undiffuse.captions`` for several captions."""
        return self._captions

    @abstractmethod
    def hashes(self) -> Hashes:
        """(N, 16) uint8: a content hash of each item, taken before resizing and so the same for every training size."""

    def split_hashes(self) -> Hashes:
        """(N, 16) uint8: the hash of each item that decides its split; items with equal ones are in the same split."""
        return self.hashes()

    @abstractmethod
    def items(self, indices: Indices) -> npt.NDArray[Any]:
        """Items as a new (B, *shape) uint8 or float32 array; ``indices`` must be in range."""

    @property
    def decodes(self) -> bool:
        """Whether items are decoded on every access, so that prefetching them saves time."""
        return False

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if there are no labels."""
        return len(self.class_names)

    def item_name(self, index: int) -> str:
        """Name of an item in messages: its number, or its file."""
        return f"item {index}"

    def fetch(self, indices: npt.ArrayLike) -> Batch:
        """Load the items at these positions, in this order.

        Raises:
            UsageError: if an index is outside 0..len-1.
        """
        rows = self._checked(indices)
        return self.batch_of(rows, torch.from_numpy(self.items(rows)))

    def batch_of(self, rows: Indices, items: Tensor) -> Batch:
        """Create a batch from the items loaded from the positions ``rows``, with their labels and captions."""
        labels = self.labels
        label = None if labels is None else torch.from_numpy(labels[rows])
        captions = self.captions
        texts = None if captions is None else PerRow(texts_at(captions, rows))
        return Batch(items, Given(label=label, captions=texts), torch.from_numpy(rows))

    def subset(self, indices: npt.ArrayLike) -> Dataset:
        """View of the items at these positions, without copying."""
        return Subset(self, self._checked(indices))

    @cached_property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) that changes with any item, label or caption, with their order, and with the options."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.shape, self.class_names, self.provenance.get("options", ""))).encode())
        digest.update(np.ascontiguousarray(self.hashes()).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        if self.captions is not None:
            digest.update(b"captions" + digest_of(self.captions))
        return digest.hexdigest()

    def _checked(self, indices: npt.ArrayLike) -> Indices:
        rows = np.array(indices, dtype=np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise UsageError(
                f"indices {rows.min()}..{rows.max()} do not fit a set of {len(self)} items, counted from 0"
            )
        return rows


class ArrayDataset(Dataset):
    """Data set held in memory as one array.

    Args:
        array: (N, C, H, W) uint8 or (N, D) float32.
        labels: (N,) class indices, or ``None``.
        hashes: (N, 16) uint8, content hash of each item; by default that of the array's rows.
        item_names: names of the items in messages; their numbers by default.
        captions: one text per item, or ``None``.
    """

    def __init__(
        self,
        name: str,
        array: npt.NDArray[Any],
        labels: npt.NDArray[Any] | None = None,
        class_names: Sequence[str] = (),
        provenance: Mapping[str, str] | None = None,
        hashes: Hashes | None = None,
        item_names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, array.shape[1:], class_names, provenance or {})
        self._array = array
        self._labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self._hashes = hashes
        self._item_names = item_names
        self._captions = None if captions is None else stored(captions)

    def __len__(self) -> int:
        return len(self._array)

    def hashes(self) -> Hashes:
        if self._hashes is None:
            self._hashes = hash_rows(self._array)
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        return self._array.take(indices, axis=0)  # four times faster than indexing with brackets

    def item_name(self, index: int) -> str:
        return self._item_names[index] if self._item_names is not None else super().item_name(index)


class Subset(Dataset):
    """View of the items of another data set.

    Args:
        base: the data set.
        rows: positions of the items.
    """

    def __init__(self, base: Dataset, rows: Indices) -> None:
        super().__init__(base.name, base.shape, base.class_names, base.provenance)
        self._base, self._rows = base, rows
        self.last_caption_share = base.last_caption_share

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def _subset_labels(self) -> Indices | None:
        labels = self._base.labels
        return None if labels is None else labels[self._rows]

    @property
    def labels(self) -> Indices | None:
        return self._subset_labels

    @cached_property
    def _subset_captions(self) -> Strings | None:
        captions = self._base.captions
        return None if captions is None else stored(captions).select(self._rows)

    @property
    def captions(self) -> Sequence[str] | None:
        return self._subset_captions

    @property
    def decodes(self) -> bool:
        return self._base.decodes

    def hashes(self) -> Hashes:
        return self._base.hashes()[self._rows]

    def split_hashes(self) -> Hashes:
        return self._base.split_hashes()[self._rows]

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        return self._base.items(self._rows[indices])

    def item_name(self, index: int) -> str:
        return self._base.item_name(int(self._rows[index]))


class _ClassSubset(Subset):
    """The items of selected classes, with labels renumbered from 0."""

    def __init__(self, base: Dataset, labels: Indices, selected: Indices) -> None:
        super().__init__(base, np.flatnonzero(np.isin(labels, selected)))
        self.class_names = tuple(base.class_names[number] for number in selected)
        self._renumbered = np.searchsorted(selected, labels[self._rows])

    @property
    def labels(self) -> Indices | None:
        return self._renumbered


def select_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Select the items of the classes ``names``, which keep their order in the set; all items if ``names`` is empty.

    Raises:
        UsageError: if the set has no classes, a class is unknown, or the classes have no items.
    """
    if not names:
        return dataset
    if dataset.labels is None:
        raise UsageError(f"classes={','.join(names)}, but the data has no classes; leave the option out")
    # typed names have composed accents (NFC), folder names of macOS decomposed ones (NFD)
    requested, known = set(map(composed, names)), [composed(name) for name in dataset.class_names]
    for name in names:
        if composed(name) not in known:
            commas = """; in JSON a name may hold commas: '["a, b"]'""" if "," in "".join(dataset.class_names) else ""
            raise UsageError(f"the data has no class {name!r}; {nearest(name, dataset.class_names)}{commas}")
    selected = np.array([number for number, name in enumerate(known) if name in requested], dtype=np.int64)
    subset = _ClassSubset(dataset, dataset.labels, selected)
    if len(subset) == 0:
        raise UsageError(f"classes={','.join(names)}: the data has no items of these classes; select others")
    return subset


def hash_item(content: bytes | memoryview) -> bytes:
    """Content hash of one item, 16 bytes."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def hash_rows(array: npt.NDArray[Any]) -> Hashes:
    """(N, 16) uint8: hash of each row of an array; equal rows have equal hashes."""
    hashes = b"".join(hash_item(row.tobytes()) for row in array)
    return np.frombuffer(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)


def _unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make class names unique by appending a number to repeated ones, so that each class can be selected by name."""
    unique: dict[str, None] = {}
    for name in names:
        number, candidate = 1, name
        while candidate in unique:
            number += 1
            candidate = f"{name} ({number})"
        unique[candidate] = None
    return tuple(unique)


def count_distinct(hashes: Hashes) -> int:
    """Number of distinct hashes among (N, 16)."""
    return len(np.unique(np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}")))
