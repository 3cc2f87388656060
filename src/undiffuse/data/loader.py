"""The order in which training sees the data: an endless stream of epochs, a function of (seed, epoch, index) alone.

Position p of the stream is item ``order(seed, p // N)[p % N]``. The loader holds no state that matters: any run of
positions may be asked for at any time, in any cut, on any rank, and a resumed run goes on where it was.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from undiffuse.data.source import Batch, Dataset, Indices
from undiffuse.errors import UsageError

_KEPT_EPOCHS = 2  # a batch touches the running epoch and the next


def epoch_order(num_items: int, seed: int, epoch: int) -> Indices:
    """The permutation of 0..num_items-1 for one epoch.

    It sorts the raw 64-bit output of Philox keyed by (seed, epoch): a bit stream that numpy promises to keep, unlike
    the method ``permutation``.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_items)
    return np.argsort(keys, kind="stable").astype(np.int64)


class Loader:
    """Batches of a data set by position in its shuffled, endless stream.

    Args:
        dataset: a non-empty set.
        seed: of the shuffle, in [0, 2**64).

    Raises:
        UsageError: an empty set or a seed out of range.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        if len(dataset) == 0:
            raise UsageError("cannot draw batches from an empty data set; expected at least one item")
        if not 0 <= seed < 2**64:
            raise UsageError(f"the seed of the data order must be in [0, 2**64), got {seed}")
        self.dataset, self.seed = dataset, seed
        self._orders: OrderedDict[int, Indices] = OrderedDict()

    def indices(self, start: int, count: int) -> Indices:
        """(count,) item numbers at positions start .. start+count-1 of the stream."""
        if start < 0 or count < 0:
            raise UsageError(f"positions in the data stream start at 0, got start={start}, count={count}")
        size, end = len(self.dataset), start + count
        parts = [
            self._order(epoch)[max(start - epoch * size, 0) : end - epoch * size]
            for epoch in range(start // size, -(-end // size))
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def batch(self, start: int, count: int) -> Batch:
        """The items at positions start .. start+count-1 of the stream."""
        return self.dataset.fetch(self.indices(start, count))

    def _order(self, epoch: int) -> Indices:
        if epoch not in self._orders:
            self._orders[epoch] = epoch_order(len(self.dataset), self.seed, epoch)
            while len(self._orders) > _KEPT_EPOCHS:
                self._orders.popitem(last=False)
        return self._orders[epoch]
