"""Worker processes that prefetch batches.

The training process decides which items are fetched and sends their indices to the workers; results are returned in
order. The batches therefore do not depend on the number or speed of the workers, and no worker state is saved.
"""

from __future__ import annotations

import atexit
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from undiffuse.data.dataset import Dataset, Indices
from undiffuse.data.storage import encoded
from undiffuse.errors import RunError, UndiffuseError

Rows = Callable[[int, int], Indices]
Fetched = tuple[Indices, Tensor]
#: Signals sent to the whole process group: Ctrl-C, a job manager, a closed terminal.
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Prefetcher:
    """Prefetches the items of consecutive batches.

    Any batch may be requested; if it neither follows the last one nor is among the most recent ones, the workers
    restart from there.

    Args:
        dataset: data set to fetch from.
        rows: function from (start, count) to item indices.
        workers: number of processes, at least 1.
        prefetch: number of batches that each worker loads in advance.
        kept: number of most recent batches that can be requested again without refetching.
        pin: put the items into pinned memory, which allows asynchronous copies to a GPU.
        start_method: multiprocessing start method; ``None`` for Python's default.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: Rows,
        workers: int,
        prefetch: int = 2,
        kept: int = 1,
        pin: bool = False,
        start_method: str | None = None,
    ) -> None:
        self._sampler = _BatchSampler(rows)
        self._kept: deque[tuple[tuple[int, int], Fetched]] = deque(maxlen=kept)
        self._next = (0, 0)
        self._iterator: Iterator[Any] | None = None
        self._loader = DataLoader(
            _FetchDataset(dataset),
            batch_size=None,
            sampler=self._sampler,
            num_workers=workers,
            collate_fn=_identity,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            prefetch_factor=prefetch,
            multiprocessing_context=start_method,
            generator=torch.Generator(),  # otherwise torch draws from the global generator
        )
        self._at_exit = partial(_close, weakref.ref(self))

    def fetch(self, start: int, count: int) -> Fetched:
        """Fetch the item indices of positions start .. start+count-1 (this rank's part of them), and the items.

        Raises:
            UndiffuseError: an error raised in a worker, unchanged.
            RunError: if a worker was killed.
        """
        for place, found in self._kept:
            if place == (start, count):
                return found
        if self._iterator is None or self._next != (start, count):
            self._start(start, count)
        found = self._sampler.sent[0], self._next_items()
        self._sampler.sent.popleft()
        self._kept.append(((start, count), found))
        self._next = (start + count, count)
        return found

    def close(self) -> None:
        """Stop the worker processes."""
        self._iterator = None  # the last reference to them
        self._kept.clear()
        atexit.unregister(self._at_exit)

    def _start(self, start: int, count: int) -> None:
        self.close()
        self._sampler.first = (start, count)
        atexit.register(self._at_exit)
        with _signals_blocked(), _explain_worker_death():
            self._iterator = iter(self._loader)

    def _next_items(self) -> Tensor:
        assert self._iterator is not None
        iterator, self._iterator = self._iterator, None  # restarted after an error
        with _explain_worker_death():
            found = next(iterator)
        if isinstance(found, UndiffuseError):
            del iterator  # otherwise the traceback keeps the workers alive, and exiting waits for them
            raise found
        self._iterator = iterator
        items: Tensor = found
        return items


class _BatchSampler(Sampler[Indices]):
    """Infinite sampler of the item indices of consecutive batches; indices sent to workers are kept until fetched."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.first, self.sent = rows, (0, 0), deque[Indices]()

    def __iter__(self) -> Iterator[Indices]:
        self.sent.clear()
        start, count = self.first
        while True:
            self.sent.append(self._rows(start, count))
            yield self.sent[-1]
            start += count


class _FetchDataset(TorchDataset[Any]):
    """Batches of items by their indices; errors are returned, because torch wraps raised ones in a long traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, rows: Indices) -> Tensor | UndiffuseError:
        try:
            return torch.from_numpy(self._dataset.items(rows))
        except UndiffuseError as error:
            return error


def _identity(found: Any) -> Any:
    return found


def _start_worker(number: int) -> None:
    """Initialize a worker: ignore signals sent to the process group, which the training process handles."""
    for signal_number in _GROUP_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    encoded.num_threads = 1


def _close(prefetcher: weakref.ref[Prefetcher]) -> None:
    """Stop the workers at exit, where Python would send them a signal and wait for them."""
    if (alive := prefetcher()) is not None:
        alive.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while workers start, so that none receives one before it is initialized.

    Also restores the handler of SIGCHLD: torch's would raise the error of a dead worker anywhere in the training step;
    without it, the error is raised where the worker's batch is awaited.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread, where torch sets no handler
            signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _explain_worker_death() -> Iterator[None]:
    """Turn the errors that torch raises for a dead worker into a ``RunError``."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_worker_death(error):
            raise
        raise RunError(
            "a process that loads data was killed, perhaps because memory or /dev/shm ran out; free some and resume, "
            "or load in the training process with loader.workers=0"
        ) from None


def _is_worker_death(error: Exception) -> bool:
    """Whether an error is due to a dead worker; torch states so, unless it was receiving a tensor from the worker."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in text and "exited unexpectedly" in text
    return not text.startswith("Caught ")  # torch's prefix for an error raised in a live worker
