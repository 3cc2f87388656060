"""The data as training sees it: an endless stream of shuffled epochs, a function of (seed, epoch, index) alone.

Position p of the stream is item ``order(seed, p // N)[p % N]``. The loader holds no state that matters: any run of
positions may be asked for at any time, in any cut, on any rank, with any number of workers, and a resumed run goes on
where it was. Several ranks share the one stream: each global batch is cut into as many parts, so that all ranks
together see what one process would, every item once an epoch, nothing padded and nothing dropped.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from undiffuse.cores import num_cores
from undiffuse.data.config.loader import LoaderConfig
from undiffuse.data.dataset import Batch, Dataset, Indices
from undiffuse.data.order import Stream
from undiffuse.data.storage.resident import Resident, wants_resident
from undiffuse.data.workers import Prefetcher
from undiffuse.errors import UsageError

_MAX_WORKERS = 8


class Loader:
    """Batches of a data set by position in its shuffled, endless stream.

    Args:
        dataset: a non-empty set.
        seed: of the shuffle, in [0, 2**64).
        config: how items get to the device.
        device: where batches are wanted; the items of a batch may be there already when it is handed out.
        rank, num_ranks: which part of each batch is this process's.
        kept: batches handed out last that may be asked for again.

    Raises:
        UsageError: an empty set, a seed or rank out of range, a set that does not fit where it is to be resident.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int = 0,
        config: LoaderConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        num_ranks: int = 1,
        kept: int = 1,
    ) -> None:
        if len(dataset) == 0:
            raise UsageError("cannot draw batches from an empty data set; expected at least one item")
        if not 0 <= seed < 2**64:
            raise UsageError(f"the seed of the data order must be in [0, 2**64), got {seed}")
        if not 0 <= rank < num_ranks:
            raise UsageError(f"the rank must be in 0..num_ranks-1, got rank={rank}, num_ranks={num_ranks}")
        config = config or LoaderConfig()
        self.dataset, self.seed, self.device = dataset, seed, torch.device(device)
        self._stream = Stream(len(dataset), seed, rank, num_ranks)
        resident = wants_resident(dataset, self.device, config.resident)
        self._resident = Resident(dataset, self.device) if resident else None
        workers = 0 if resident else num_workers(dataset, config)
        pin = self.device.type == "cuda"
        self._ahead = Prefetcher(dataset, self._stream.rows, workers, config.prefetch, kept, pin) if workers else None

    def indices(self, start: int, count: int) -> Indices:
        """Item numbers at this rank's share of the positions start .. start+count-1 of the stream.

        The shares of the ranks follow each other and differ by one item at most; they are equal where ``num_ranks``
        divides ``count``.
        """
        if start < 0 or count < 0:
            raise UsageError(f"positions in the data stream start at 0, got start={start}, count={count}")
        return self._stream.rows(start, count)

    def batch(self, start: int, count: int) -> Batch:
        """The items at this rank's share of the positions start .. start+count-1 of the stream.

        Raises:
            UsageError: an image that cannot be read (any more); the message names it.
            RunError: a worker was killed.
        """
        if self._resident is not None:
            return self._resident.fetch(self.indices(start, count))
        if self._ahead is not None:
            batch = self.dataset.batch_of(*self._ahead.fetch(start, count))
        else:
            batch = self.dataset.fetch(self.indices(start, count))
        if self.device.type != "cuda":
            return batch
        return replace(batch, items=batch.items.pin_memory().to(self.device, non_blocking=True))

    def close(self) -> None:
        """End the workers; the next batch would start them again."""
        if self._ahead is not None:
            self._ahead.close()


def num_workers(dataset: Dataset, config: LoaderConfig) -> int:
    """How many worker processes a set is fetched by."""
    if config.workers != "auto":
        return config.workers
    return min(_MAX_WORKERS, max(1, num_cores() - 1)) if dataset.decodes else 0
