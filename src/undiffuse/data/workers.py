"""Worker processes that fetch the batches to come.

What they fetch is decided here, in the training process, and handed to them as item numbers; what they bring is put
back in order. So neither their number nor their speed has any part in the result, and none of their state is saved.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from undiffuse.data import encoded
from undiffuse.data.source import Dataset, Indices
from undiffuse.errors import RunError, UndiffuseError

Rows = Callable[[int, int], Indices]
Found = tuple[Indices, Tensor]


class Ahead:
    """The items of batches that follow each other, fetched ahead of their being asked for.

    Any batch may be asked for; one that neither follows the last nor is among those kept makes the workers begin anew
    from there.

    Args:
        dataset: where to fetch from.
        rows: item numbers of (start, count).
        workers: how many processes, at least 1.
        prefetch: batches that each has ready.
        kept: batches handed out last that may be asked for again.
        pin: put the items into pinned memory, from which a GPU copies while it computes.
        start_method: of the processes; ``None`` for Python's own choice.
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
        self._places = _Places(rows)
        self._kept: deque[tuple[tuple[int, int], Found]] = deque(maxlen=kept)
        self._next = (0, 0)
        self._running: Iterator[Any] | None = None
        self._loader: DataLoader[Any] | None = None
        self._options: dict[str, Any] = {
            "dataset": _Fetched(dataset),
            "sampler": self._places,
            "num_workers": workers,
            "pin_memory": pin,
            "prefetch_factor": prefetch,
            "multiprocessing_context": start_method,
        }

    def fetch(self, start: int, count: int) -> Found:
        """Item numbers of positions start .. start+count-1 (this rank's share of them), and the items.

        Raises:
            UndiffuseError: what went wrong in a worker, as it was there.
            RunError: a worker was killed.
        """
        for place, found in self._kept:
            if place == (start, count):
                return found
        if self._running is None or self._next != (start, count):
            self._begin(start, count)
        found = self._places.sent[0], self._received()
        self._places.sent.popleft()
        self._kept.append(((start, count), found))
        self._next = (start + count, count)
        return found

    def close(self) -> None:
        """End the processes."""
        self._running = self._loader = None
        self._kept.clear()

    def _begin(self, start: int, count: int) -> None:
        self._places.first = (start, count)
        if self._loader is None:
            self._loader = DataLoader(
                **self._options,
                batch_size=None,
                collate_fn=_as_it_is,
                worker_init_fn=_settle,
                persistent_workers=True,
                generator=torch.Generator(),  # torch would draw from the global one
            )
        with _handler_of_dead_children_kept(), _explained():
            self._running = iter(self._loader)

    def _received(self) -> Tensor:
        assert self._running is not None
        running, self._running = self._running, None  # begun anew after an error
        with _explained():
            found = next(running)
        if isinstance(found, UndiffuseError):
            raise found
        self._running = running
        items: Tensor = found
        return items


class _Places(Sampler[Indices]):
    """The item numbers of one batch after the other, without end; those that were sent out are kept until taken."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.first, self.sent = rows, (0, 0), deque[Indices]()

    def __iter__(self) -> Iterator[Indices]:
        self.sent.clear()
        start, count = self.first
        while True:
            self.sent.append(self._rows(start, count))
            yield self.sent[-1]
            start += count


class _Fetched(TorchDataset[Any]):
    """Items by item numbers; what is wrong with one is handed on as it is, for torch would put a page around it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, rows: Indices) -> Tensor | UndiffuseError:
        try:
            return torch.from_numpy(self._dataset.items(rows))
        except UndiffuseError as error:
            return error


def _as_it_is(found: Any) -> Any:
    return found


def _settle(number: int) -> None:
    """In a worker: the training process says when it ends, also where a signal is sent to the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    encoded.num_threads = 1


@contextmanager
def _handler_of_dead_children_kept() -> Iterator[None]:
    """torch would raise a dead worker's error from a signal handler, anywhere; here it is raised where one waits."""
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        yield
    finally:
        if before is not None:
            with suppress(ValueError):  # not the main thread, where torch sets none
                signal.signal(signal.SIGCHLD, before)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
            raise
        raise RunError(
            "a process that loads data was killed, perhaps for want of memory or of room in /dev/shm; free some and go "
            "on, or load in the training process with loader.workers=0"
        ) from None
