"""What a data set is: a fixed sequence of items with optional class labels, fetched by index.

Images are uint8 (C, H, W) until they are on the device; points are float32 (D,). Every item has a hash of its
content, on which the split into training and validation parts rests.
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
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]

HASH_BYTES = 16


@dataclass(frozen=True)
class Batch:
    """Some items of a data set.

    Args:
        items: uint8 (B, C, H, W) images or float32 (B, D) points.
        given: labels and captions, where the set has them.
        indices: (B,) int64 positions in the data set they were fetched from.
    """

    items: Tensor
    given: Given
    indices: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; images are still uint8."""
        return Batch(self.items.to(device), self.given.to(device), self.indices.to(device))

    @property
    def captions(self) -> Sequence[str]:
        """One text per item, or none where the set has no captions."""
        return self.given.captions or ()

    @property
    def x_0(self) -> Tensor:
        """float32: images as u / 127.5 - 1 in [-1, 1], points as they are."""
        return self.items.float() / 127.5 - 1 if self.items.dtype == torch.uint8 else self.items


class Dataset(ABC):
    """A fixed sequence of items behind one contract, whatever it is read from.

    Args:
        name: the registry name of its source.
        shape: (C, H, W) of uint8 images or (D,) of float32 points.
        class_names: one name per class; empty where there are no labels.
        provenance: where it comes from, its licence where known, counts and options, as text.
    """

    #: What ``labels`` and ``captions`` are, for a set that has any.
    _labels: Indices | None = None
    _captions: Sequence[str] | None = None

    def __init__(
        self, name: str, shape: Sequence[int], class_names: Sequence[str], provenance: Mapping[str, str]
    ) -> None:
        self.name = name
        self.shape = tuple(int(side) for side in shape)
        self.class_names = _apart(class_names)
        self.provenance = dict(provenance)

    @property
    def space(self) -> Space:
        """What its items are: images of 256 levels or points."""
        return Space.of_data(self.shape)

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def labels(self) -> Indices | None:
        """(N,) int64 in [0, num_classes), or ``None``."""
        return self._labels

    @property
    def captions(self) -> Sequence[str] | None:
        """One text per item, or ``None`` where the set has none."""
        return self._captions

    @abstractmethod
    def hashes(self) -> Hashes:
        """(N, 16) uint8: a hash of each item's content, as it was found and so the same for every training size."""

    @abstractmethod
    def items(self, indices: Indices) -> npt.NDArray[Any]:
        """(B, *shape) uint8 or float32, a fresh array; ``indices`` are known to be in range."""

    @property
    def decodes(self) -> bool:
        """Whether items are decoded each time they are fetched, so that it pays to fetch them ahead."""
        return False

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 where there are no labels."""
        return len(self.class_names)

    def item_name(self, index: int) -> str:
        """What to call one item in a message: its number, or its file."""
        return f"item {index}"

    def fetch(self, indices: npt.ArrayLike) -> Batch:
        """The items at these positions, in this order.

        Raises:
            UsageError: an index outside 0..len-1.
        """
        rows = self._checked(indices)
        return self.batch_of(rows, torch.from_numpy(self.items(rows)))

    def batch_of(self, rows: Indices, items: Tensor) -> Batch:
        """These items, which were fetched from the positions ``rows``, with their labels and captions."""
        labels = self.labels
        label = None if labels is None else torch.from_numpy(labels[rows])
        captions = self.captions
        texts = None if captions is None else PerRow(captions[row] for row in rows)
        return Batch(items, Given(label=label, captions=texts), torch.from_numpy(rows))

    def subset(self, indices: npt.ArrayLike) -> Dataset:
        """A view of the items at these positions; nothing is copied."""
        return _Subset(self, self._checked(indices))

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with any item, label, caption, their order or the options that shape them."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.shape, self.class_names, self.provenance.get("options", ""))).encode())
        digest.update(np.ascontiguousarray(self.hashes()).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        if self.captions is not None:
            digest.update(b"captions" + StringArray.of(self.captions).joined())
        return digest.hexdigest()

    def _checked(self, indices: npt.ArrayLike) -> Indices:
        rows = np.array(indices, dtype=np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise UsageError(
                f"indices {rows.min()}..{rows.max()} do not fit a set of {len(self)} items, counted from 0"
            )
        return rows


class ArrayDataset(Dataset):
    """Items that lie in memory as one array.

    Args:
        array: (N, C, H, W) uint8 or (N, D) float32.
        labels: (N,) class indices, or ``None``.
        hashes: (N, 16) uint8, each item's hash where it was taken of something else than the array's rows.
        item_names: what to call the items in messages.
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
        self._captions = None if captions is None else StringArray.of(captions)

    def __len__(self) -> int:
        return len(self._array)

    def hashes(self) -> Hashes:
        if self._hashes is None:
            self._hashes = hash_rows(self._array)
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        return self._array.take(indices, axis=0)  # four times faster than by brackets

    def item_name(self, index: int) -> str:
        return self._item_names[index] if self._item_names is not None else super().item_name(index)


class _Subset(Dataset):
    def __init__(self, base: Dataset, rows: Indices) -> None:
        super().__init__(base.name, base.shape, base.class_names, base.provenance)
        self._base, self._rows = base, rows

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def _own_labels(self) -> Indices | None:
        labels = self._base.labels
        return None if labels is None else labels[self._rows]

    @property
    def labels(self) -> Indices | None:
        return self._own_labels

    @cached_property
    def _own_captions(self) -> StringArray | None:
        captions = self._base.captions
        return None if captions is None else StringArray.of(captions).select(self._rows)

    @property
    def captions(self) -> Sequence[str] | None:
        return self._own_captions

    @property
    def decodes(self) -> bool:
        return self._base.decodes

    def hashes(self) -> Hashes:
        return self._base.hashes()[self._rows]

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        return self._base.items(self._rows[indices])

    def item_name(self, index: int) -> str:
        return self._base.item_name(int(self._rows[index]))


class _OfClasses(_Subset):
    """The items of some classes, numbered anew."""

    def __init__(self, base: Dataset, labels: Indices, kept: Indices) -> None:
        super().__init__(base, np.flatnonzero(np.isin(labels, kept)))
        self.class_names = tuple(base.class_names[number] for number in kept)
        self._renumbered = np.searchsorted(kept, labels[self._rows])

    @property
    def labels(self) -> Indices | None:
        return self._renumbered


def of_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The items of the classes called ``names``, which keep the set's own order; all items where none is named.

    Raises:
        UsageError: a set without classes, an unknown class, or no item of the classes.
    """
    if not names:
        return dataset
    if dataset.labels is None:
        raise UsageError(f"classes={','.join(names)}, but the data has no classes; leave the option out")
    # a name that is typed has its accents composed, a folder of macOS has them apart
    looks, known = set(map(composed, names)), [composed(name) for name in dataset.class_names]
    for name in names:
        if composed(name) not in known:
            commas = """; in JSON a name may hold commas: '["a, b"]'""" if "," in "".join(dataset.class_names) else ""
            raise UsageError(f"the data has no class {name!r}; {nearest(name, dataset.class_names)}{commas}")
    kept = np.array([number for number, name in enumerate(known) if name in looks], dtype=np.int64)
    chosen = _OfClasses(dataset, dataset.labels, kept)
    if len(chosen) == 0:
        raise UsageError(f"classes={','.join(names)}: the data has no item of them; name others")
    return chosen


def hash_item(content: bytes | memoryview) -> bytes:
    """16 bytes that stand for the content of one item."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def hash_rows(array: npt.NDArray[Any]) -> Hashes:
    """(N, 16) uint8: the hash of each row of an array; rows that are equal have equal hashes."""
    hashes = b"".join(hash_item(row.tobytes()) for row in array)
    return np.frombuffer(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)


def _apart(names: Sequence[str]) -> tuple[str, ...]:
    """The names with a number behind each that came before: of two classes of one name only the first could be asked
    for.
    """
    apart: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in apart:
            number += 1
            own = f"{name} ({number})"
        apart[own] = None
    return tuple(apart)


def count_distinct(hashes: Hashes) -> int:
    """How many different hashes there are among (N, 16)."""
    return len(np.unique(np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}")))
