"""Handling of Ctrl-C, SIGTERM, SIGHUP and broken output pipes.

On each of them, training finishes the current step and writes a checkpoint; every other command ends immediately and
removes its temporary files. The exit code is 128 plus the signal number, as in a shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from undiffuse.cancellation import Cancel
from undiffuse.observer import Forwarding, Observer

#: Number of SIGPIPE, for the exit code on a broken pipe; not every system has the signal.
SIGPIPE_NUMBER = 13
#: Sent once when the terminal closes; ignored under ``nohup``.
_HANGUP = getattr(signal, "SIGHUP", None)


class CancelOnBrokenPipe(Forwarding):
    """An observer of training that forwards to a display, and cancels the training if the output pipe is closed.

    Args:
        cancel: stops the training with a checkpoint.
        display: receives the calls; an ``OSError`` that it raises is suppressed.
    """

    def __init__(self, cancel: Cancel, display: Observer) -> None:
        super().__init__(display)
        self._cancel = cancel

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Progress of the training."""
        with self._suppressing_write_errors():
            super().progress(done, total, part)

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A new row of the metrics log."""
        with self._suppressing_write_errors():
            super().row(kind, values)

    def message(self, text: str) -> None:
        """A warning or a hint for the user."""
        with self._suppressing_write_errors():
            super().message(text)

    def announce(self, text: str) -> None:
        """Work started or finished."""
        with self._suppressing_write_errors():
            super().announce(text)

    @contextlib.contextmanager
    def _suppressing_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a closed terminal or a full disk of a log must not end the training
            discard_closed_output()
            if error.errno == errno.EPIPE:
                self._cancel.request("the output pipe was closed", SIGPIPE_NUMBER)


@contextlib.contextmanager
def cancel_on_signals(cancel: Cancel, display: Observer) -> Iterator[CancelOnBrokenPipe]:
    """Handle signals by a checkpoint after the current step; a second Ctrl-C stops immediately.

    Args:
        cancel: stops the training.
        display: the observer of the training.
    """

    def request_stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        cancel.request(name, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(
            OSError, RuntimeError
        ):  # the terminal is closed, or the signal interrupted a write to it
            display.message(f"{name}: finishing this step and writing a checkpoint")

    with _signal_handlers({signal.SIGINT: request_stop, **_termination_handlers(request_stop)}):
        yield CancelOnBrokenPipe(cancel, display)


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Convert terminating signals to ``SystemExit``, so that cleanup code runs."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _signal_handlers(_termination_handlers(end)):
        yield


def is_broken_pipe(error: BaseException | None) -> bool:
    """Whether an error is due to a closed output pipe or terminal."""
    number = error.errno if isinstance(error, OSError) else None
    return number == errno.EPIPE or (number == errno.EIO and discard_closed_output())  # a failing disk raises EIO too


def discard_closed_output() -> bool:
    """Redirect closed output streams to the null device; whether there are any."""
    found = False
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            found = True
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
    return found


def _termination_handlers(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """The handler for each terminating signal, except those that the process was started to ignore."""
    numbers = [signal.SIGTERM] + ([_HANGUP] if _HANGUP is not None else [])
    return {number: handler for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}


@contextlib.contextmanager
def _signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Install signal handlers; does nothing outside the main thread, as in some notebooks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
