"""Run each benchmark candidate in a separate process, so that process-wide settings of one do not affect another.

This project configures the allocator to keep freed memory, and other libraries may change other settings; in one
process each candidate would be measured with the settings of all.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch


class Apart:
    """Builds ``make(*arguments)`` in a separate process, which runs the tasks sent to it.

    Args:
        make: a function that the other process can import.
        arguments: its arguments.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        passed = (theirs, torch.get_num_threads(), make, arguments)
        self._process = context.Process(target=_serve, args=passed, daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``work(thing, *arguments)`` in the other process, which must be able to import it, and return the result.

        Raises:
            RuntimeError: with the traceback of an exception in the other process.
        """
        try:
            self._pipe.send((work, arguments))
        except BrokenPipeError:
            raise RuntimeError(f"the process ended with exit code {self._process.exitcode}") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            result, error = self._pipe.recv()
        except EOFError:
            self._process.join()
            error = f"the process ended with exit code {self._process.exitcode}"
        if error is not None:
            raise RuntimeError(error)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.terminate()


def _serve(pipe: Connection, threads: int, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Build the object, report it, and run tasks until the pipe is closed."""
    torch.set_num_threads(threads)
    try:
        thing = make(*arguments)
        pipe.send((None, None))
        while (task := _received(pipe)) is not None:
            work, arguments = task
            pipe.send((work(thing, *arguments), None))
    except Exception:
        pipe.send((None, traceback.format_exc()))


def _received(pipe: Connection) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """The next task, or ``None`` if the pipe is closed."""
    try:
        task: tuple[Callable[..., Any], tuple[Any, ...]] = pipe.recv()
    except EOFError:
        return None
    return task
