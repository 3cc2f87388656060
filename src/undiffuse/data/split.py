"""The split into training and validation parts, by hash of content.

Each item goes where its own hash says, whatever else is in the set: adding or removing images moves no other one
across, and duplicates, having one hash, are always on the same side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.data.dataset import Dataset, Hashes


def split_by_content(dataset: Dataset, validation_fraction: float) -> tuple[Dataset, Dataset]:
    """(training part, validation part) of a set.

    An item is held out where its hash, read as a number in [0, 1), is below ``validation_fraction``; that share is
    therefore met on average only, and a small set may have an empty validation part. The training part of a non-empty
    set is never empty: were all items held out, those with the largest hash are moved to it.

    Args:
        dataset: any data set.
        validation_fraction: in [0, 1); 0 holds out nothing.

    Raises:
        UsageError: a fraction outside [0, 1).
    """
    held_out = held_out_rows(dataset.hashes(), validation_fraction)
    return dataset.subset(np.flatnonzero(~held_out)), dataset.subset(np.flatnonzero(held_out))


def held_out_rows(hashes: Hashes, validation_fraction: float) -> npt.NDArray[np.bool_]:
    """(N,) whether each item of these hashes (N, 16) is held out; see ``split_by_content``."""
    if not 0 <= validation_fraction < 1:
        raise UsageError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
    leading = np.ascontiguousarray(hashes[:, :8]).view(">u8")[:, 0]
    held_out = leading < np.uint64(int(validation_fraction * 2**64))
    if len(hashes) and held_out.all():
        last = max(item.tobytes() for item in hashes)
        held_out = (hashes != np.frombuffer(last, dtype=np.uint8)).any(axis=1)
    return held_out


def few_by_content(dataset: Dataset, count: int | None) -> Dataset:
    """``count`` items of a set in their order, or all where there are no more: a random choice, by hash of content.

    It rests on the half of each hash that the split does not look at, so it is independent of that; a larger count
    keeps the items of a smaller one.
    """
    if count is None or count >= len(dataset):
        return dataset
    leading = np.ascontiguousarray(dataset.hashes()[:, 8:16]).view(">u8")[:, 0]
    return dataset.subset(np.sort(np.argsort(leading, kind="stable")[:count]))
