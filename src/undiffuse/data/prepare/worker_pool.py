"""Blocks of work done by several processes, their results in order. Ends by itself when the parent is killed."""

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

_AHEAD = 4  # blocks for each worker that may be under way or wait for their turn
_AT_ONCE = 2  # blocks that a worker has been given, so that it need not wait for the next


def in_order(job: Job[R], blocks: Sequence[Block], workers: int) -> Iterator[R]:
    """``job(start, end)`` of each block, in the order of the blocks.

    Args:
        job: what to do; it must not depend on what was done before.
        blocks: (start, end) of each.
        workers: processes; 1 works in this one.

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
        # a fork shares the listing with the workers; elsewhere it has to be sent to them
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._lines: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            self._lines.append(ours)
            inherited = list(self._lines) if sys.platform == "linux" else []
            process = context.Process(target=_serve, args=(job, theirs, inherited), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)

    def results(self, blocks: Sequence[Block]) -> Iterator[Any]:
        waiting: dict[int, Any] = {}
        given = dict.fromkeys(self._lines, 0)
        next_block = due = 0
        while due < len(blocks):
            for line in self._lines:
                while given[line] < _AT_ONCE and next_block < min(len(blocks), due + _AHEAD * len(self._lines)):
                    self._send(line, (next_block, blocks[next_block]))
                    given[line], next_block = given[line] + 1, next_block + 1
            if due in waiting:
                yield waiting.pop(due)
                due += 1
                continue
            for ready in wait(self._lines):
                number, result = self._receive(ready)  # type: ignore[arg-type]
                waiting[number] = result
                given[ready] -= 1  # type: ignore[index]

    def _send(self, line: Connection, message: Any) -> None:
        try:
            line.send(message)
        except OSError:
            raise _lost() from None

    def _receive(self, line: Connection) -> tuple[int, Any]:
        try:
            number, result, failure = line.recv()
        except (EOFError, OSError):
            raise _lost() from None
        if failure:
            raise RuntimeError(failure)
        return number, result

    def close(self) -> None:
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():  # in the middle of a block, or sending to one who listens no more
                process.terminate()
                process.join()


def _lost() -> RunError:
    return RunError("a worker process was ended, perhaps because memory ran out; take fewer with --workers and go on")


def _serve(job: Job[Any], line: Connection, inherited: list[Connection]) -> None:
    """The life of a worker, until there is no more to read: with the parent's ends closed, also when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    for other in inherited:
        other.close()
    while True:
        try:
            number, block = line.recv()
        except (EOFError, OSError):
            return
        try:
            message = (number, job(*block), "")
        except Exception as error:
            message = (number, None, f"{type(error).__name__}: {error}")
        try:
            line.send(message)
        except OSError:
            return
