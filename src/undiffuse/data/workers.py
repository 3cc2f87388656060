"""Worker processes that fetch the batches to come.

What they fetch is decided here, in the training process, and handed to them as item numbers; what they bring is put
back in order. So neither their number nor their speed has any part in the result, and none of their state is saved.
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
Found = tuple[Indices, Tensor]
#: Ctrl-C, a job manager, a terminal that hangs up.
_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Prefetcher:
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
        self._loader = DataLoader(
            _Fetched(dataset),
            batch_size=None,
            sampler=self._places,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            prefetch_factor=prefetch,
            multiprocessing_context=start_method,
            generator=torch.Generator(),  # torch would draw from the global one
        )
        self._at_exit = partial(_close, weakref.ref(self))

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
        self._running = None  # the last to hold on to them
        self._kept.clear()
        atexit.unregister(self._at_exit)

    def _begin(self, start: int, count: int) -> None:
        self.close()
        self._places.first = (start, count)
        atexit.register(self._at_exit)
        with _signals_kept(), _explained():
            self._running = iter(self._loader)

    def _received(self) -> Tensor:
        assert self._running is not None
        running, self._running = self._running, None  # begun anew after an error
        with _explained():
            found = next(running)
        if isinstance(found, UndiffuseError):
            del running  # or the error's traceback would hold on to the workers, and the program's end wait for them
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


def _start_worker(number: int) -> None:
    """In a worker: leave it to the training process what to do about a signal sent to the whole group."""
    for signal_number in _TO_THE_GROUP:
        signal.signal(signal_number, signal.SIG_IGN)
    encoded.num_threads = 1


def _close(ahead: weakref.ref[Prefetcher]) -> None:
    """At the end of the program, where Python would send a signal to the workers and wait for them."""
    if (alive := ahead()) is not None:
        alive.close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """While workers are started: none of them is met by a signal before it has settled.

    Also, torch would raise a dead worker's error from a signal handler, anywhere in the training step; here it is
    raised where its batch is waited for.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, where torch sets no handler
            signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_by_death(error):
            raise
        raise RunError(
            "a process that loads data was killed, perhaps because memory or /dev/shm ran out; free some and go on, "
            "or load in the training process with loader.workers=0"
        ) from None


def _is_by_death(error: Exception) -> bool:
    """Whether a worker's end is behind an error; torch says so, unless it was about to fetch a tensor from it."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in text and "exited unexpectedly" in text
    return not text.startswith("Caught ")  # torch's word for what was raised in a worker that lives
