"""A whole data set on the device: images stay uint8, and a batch is gathered by index."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from undiffuse.core.per_sample import PerRow
from undiffuse.data.dataset import Batch, Dataset, Indices
from undiffuse.data.given import Given
from undiffuse.data.storage.computed_texts import stored, texts_at
from undiffuse.errors import UsageError

SHARE = 0.25  # maximum fraction of the device's free memory that a set takes with resident=auto
_CHUNK_BYTES = 2**26


class Resident:
    """The items and labels of a data set on a device.

    Args:
        dataset: any set; it is read once, sequentially.
        device: target device.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.device = device
        self._items = _moved(dataset, device)
        labels = dataset.labels
        self._labels = None if labels is None else torch.from_numpy(np.array(labels)).to(device)
        captions = dataset.captions
        self._captions = None if captions is None else stored(captions)

    def fetch(self, rows: Indices) -> Batch:
        """The items at these indices, on the device, in this order."""
        indices = torch.from_numpy(rows)
        if self.device.type == "cuda":
            indices = indices.pin_memory().to(self.device, non_blocking=True)
        label = None if self._labels is None else self._labels[indices]
        texts = None if self._captions is None else PerRow(texts_at(self._captions, rows))
        return Batch(self._items.index_select(0, indices), Given(label=label, captions=texts), indices)


def wants_resident(dataset: Dataset, device: torch.device, resident: Literal["auto"] | bool) -> bool:
    """Whether to store a set on the device.

    Raises:
        UsageError: ``resident`` is true and the set does not fit.
    """
    if (
        resident == "auto"
    ):  # not needed on the CPU; a set that is decoded on each fetch would have to be decoded at once
        return device.type == "cuda" and not dataset.decodes and num_bytes(dataset) <= SHARE * free_bytes(device)
    if resident and device.type == "cuda" and num_bytes(dataset) > free_bytes(device):
        raise UsageError(
            f"loader.resident=true: the set takes {num_bytes(dataset) / 1e9:.1f} GB and {free_bytes(device) / 1e9:.1f} "
            f"GB are free on {device}; set loader.resident=auto"
        )
    return resident


def num_bytes(dataset: Dataset) -> int:
    """Memory that the items take, in bytes."""
    return len(dataset) * math.prod(dataset.shape) * (1 if dataset.space.is_image else 4)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, in bytes."""
    return int(torch.cuda.mem_get_info(device)[0])


def _moved(dataset: Dataset, device: torch.device) -> torch.Tensor:
    dtype = torch.uint8 if dataset.space.is_image else torch.float32
    table = torch.empty((len(dataset), *dataset.shape), dtype=dtype, device=device)
    chunk = max(1, _CHUNK_BYTES * len(dataset) // max(1, num_bytes(dataset)))
    for start in range(0, len(dataset), chunk):
        rows = np.arange(start, min(start + chunk, len(dataset)))
        table[start : start + chunk] = torch.from_numpy(dataset.items(rows))
    return table
