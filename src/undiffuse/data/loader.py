"""Data loader for training: an infinite stream of shuffled epochs that depends only on (seed, epoch, index).

Position p of the stream is item ``order(seed, p // N)[p % N]``. The loader is stateless: any range of positions may be
requested at any time, with any batch size, on any rank and with any number of workers, and a resumed run continues
where it stopped. All ranks share one stream: each global batch is divided among them, so that together they read the
same items as a single process, every item once per epoch, without padding or dropping.
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
    """Batches of a data set by position in its shuffled, infinite stream.

    Args:
        dataset: a non-empty set.
        seed: seed of the shuffle, in [0, 2**64).
        config: number of workers, prefetching, and whether the data stay resident on the device.
        device: device that the batches are used on; the returned items may already be on it.
        rank, num_ranks: rank of this process and number of processes; each reads its part of every batch.
        kept: number of most recent batches that can be requested again without refetching.

    Raises:
        UsageError: if the set is empty, the seed or rank is out of range, or a resident set does not fit into memory.
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
        self._prefetcher = (
            Prefetcher(dataset, self._stream.rows, workers, config.prefetch, kept, pin) if workers else None
        )

    def indices(self, start: int, count: int) -> Indices:
        """Item indices at this rank's part of the stream positions start .. start+count-1.

        The parts of the ranks are consecutive and differ in size by at most one item; they are equal if ``num_ranks``
        divides ``count``.
        """
        if start < 0 or count < 0:
            raise UsageError(f"positions in the data stream start at 0, got start={start}, count={count}")
        return self._stream.rows(start, count)

    def batch(self, start: int, count: int) -> Batch:
        """Load the items at this rank's part of the stream positions start .. start+count-1.

        Raises:
            UsageError: if an image cannot be read (any more); the message names it.
            RunError: if a worker was killed.
        """
        if self._resident is not None:
            return self._resident.fetch(self.indices(start, count))
        if self._prefetcher is not None:
            batch = self.dataset.batch_of(*self._prefetcher.fetch(start, count))
        else:
            batch = self.dataset.fetch(self.indices(start, count))
        if self.device.type != "cuda":
            return batch
        return replace(batch, items=batch.items.pin_memory().to(self.device, non_blocking=True))

    def close(self) -> None:
        """Stop the workers; the next batch starts them again."""
        if self._prefetcher is not None:
            self._prefetcher.close()


def num_workers(dataset: Dataset, config: LoaderConfig) -> int:
    """Number of worker processes that load a data set."""
    if config.workers != "auto":
        return config.workers
    return min(_MAX_WORKERS, max(1, num_cores() - 1)) if dataset.decodes else 0
