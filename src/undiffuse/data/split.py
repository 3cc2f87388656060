"""Train/validation split by content hash.

The split of an item depends only on its hash: adding or removing images does not move any other image to the other
split, and duplicates, which have equal hashes, are always in the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.data.dataset import Dataset, Hashes


def split_by_content(dataset: Dataset, validation_fraction: float) -> tuple[Dataset, Dataset]:
    """Split a data set into (training set, validation set).

    An item is held out if its hash, read as a number in [0, 1), is below ``validation_fraction``; the fraction is
    therefore met only on average, and a small data set may have an empty validation set. The training set of a
    non-empty data set is never empty: if all items were held out, those with the largest hash are moved to it.

    Args:
        dataset: any data set.
        validation_fraction: in [0, 1); 0 holds out nothing.

    Raises:
        UsageError: if the fraction is outside [0, 1).
    """
    held_out = held_out_rows(dataset.split_hashes(), validation_fraction)
    return dataset.subset(np.flatnonzero(~held_out)), dataset.subset(np.flatnonzero(held_out))


def held_out_rows(hashes: Hashes, validation_fraction: float) -> npt.NDArray[np.bool_]:
    """(N,) mask of the held-out items, given the hashes (N, 16) of all; see ``split_by_content``."""
    if not 0 <= validation_fraction < 1:
        raise UsageError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
    leading = np.ascontiguousarray(hashes[:, :8]).view(">u8")[:, 0]
    held_out = leading < np.uint64(int(validation_fraction * 2**64))
    if len(hashes) and held_out.all():
        last = max(item.tobytes() for item in hashes)
        held_out = (hashes != np.frombuffer(last, dtype=np.uint8)).any(axis=1)
    return held_out


def subset_by_content(dataset: Dataset, count: int | None) -> Dataset:
    """Pseudo-random subset of ``count`` items, chosen by content hash, in their original order; all if there are fewer.

    It uses the half of each hash that the split does not use, so it is independent of the split; a larger ``count``
    includes the items of a smaller one.
    """
    if count is None or count >= len(dataset):
        return dataset
    leading = np.ascontiguousarray(dataset.hashes()[:, 8:16]).view(">u8")[:, 0]
    return dataset.subset(np.sort(np.argsort(leading, kind="stable")[:count]))
