"""Process pool that returns the results of blocks in order. The workers exit when the parent is killed."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from undiffuse.errors import RunError

R = TypeVar("R")
Job = Callable[[int, int], R]
Block = tuple[int, int]

_AHEAD = 4  # maximum number of unfinished or buffered blocks per worker
_AT_ONCE = 2  # blocks queued per worker, so that it is never idle


def in_order(job: Job[R], blocks: Sequence[Block], workers: int) -> Iterator[R]:
    """``job(start, end)`` of each block, in the order of the blocks.

    Args:
        job: function of a block; must not depend on earlier calls.
        blocks: (start, end) of each block.
        workers: number of processes; 1 runs in this process.

    Raises:
        RunError: a worker was killed or failed.
    """
    if workers <= 1 or len(blocks) <= 1:
        yield from (job(*block) for block in blocks)
        return
    pool = _Pool(job, min(workers, len(blocks)))
    try:
        yield from pool.results(blocks)
    finally:
        pool.close()


class _Pool:
    def __init__(self, job: Job[Any], workers: int) -> None:
        # a fork shares the listing with the workers; with spawn it is pickled
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(workers):
            parent_end, worker_end = context.Pipe()
            self._connections.append(parent_end)
            inherited = list(self._connections) if sys.platform == "linux" else []
            process = context.Process(target=_serve, args=(job, worker_end, inherited), daemon=True)
            process.start()
            worker_end.close()
            self._processes.append(process)

    def results(self, blocks: Sequence[Block]) -> Iterator[Any]:
        finished: dict[int, Any] = {}
        queued = dict.fromkeys(self._connections, 0)
        next_block = due = 0
        while due < len(blocks):
            end = min(len(blocks), due + _AHEAD * len(self._connections))
            for connection in self._connections:
                while queued[connection] < _AT_ONCE and next_block < end:
                    self._send(connection, (next_block, blocks[next_block]))
                    queued[connection], next_block = queued[connection] + 1, next_block + 1
            if due in finished:
                yield finished.pop(due)
                due += 1
                continue
            for ready in wait(self._connections):
                number, result = self._receive(ready)  # type: ignore[arg-type]
                finished[number] = result
                queued[ready] -= 1  # type: ignore[index]

    def _send(self, connection: Connection, message: Any) -> None:
        try:
            connection.send(message)
        except OSError:
            raise _lost() from None

    def _receive(self, connection: Connection) -> tuple[int, Any]:
        try:
            number, result, failure = connection.recv()
        except (EOFError, OSError):
            raise _lost() from None
        if failure:
            raise RuntimeError(failure)
        return number, result

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():  # processing a block, or blocked in send
                process.terminate()
                process.join()


def _lost() -> RunError:
    return RunError("a worker process was killed, perhaps by lack of memory; run again with fewer --workers to resume")


def _serve(job: Job[Any], connection: Connection, inherited: list[Connection]) -> None:
    """Main loop of a worker; inherited ends are closed, so that it gets EOF also when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    for parent_end in inherited:
        parent_end.close()
    while True:
        try:
            number, block = connection.recv()
        except (EOFError, OSError):
            return
        try:
            message = (number, job(*block), "")
        except Exception as error:
            message = (number, None, f"{type(error).__name__}: {error}")
        try:
            connection.send(message)
        except OSError:
            return
