"""Requests to stop: Ctrl-C, a job manager's signal, a terminal that hangs up, a reader of the output that is gone.

A training answers each with a checkpoint after the step under way; every other command ends at once and removes what it
had under temporary names. The exit code is 128 and the signal's number, as a shell has it.
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

#: What a shell says of a program whose reader is gone; not every system has the signal.
SIGPIPE_NUMBER = 13
#: A terminal that hangs up says so once; under ``nohup`` it is not to be minded.
_HANGUP = getattr(signal, "SIGHUP", None)


class CancelOnBrokenPipe(Forwarding):
    """An observer of a training that passes on to one who may be gone, and asks the training to stop where so.

    Args:
        cancel: stops the training with a checkpoint.
        shown: who is passed on to.
    """

    def __init__(self, cancel: Cancel, shown: Observer) -> None:
        super().__init__(shown)
        self._cancel = cancel

    def progress(self, done: float, total: float, part: str = "") -> None:
        """A step was made."""
        with self._while_it_lasts():
            super().progress(done, total, part)

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row of the metrics log."""
        with self._while_it_lasts():
            super().row(kind, values)

    def message(self, text: str) -> None:
        """Something worth a line."""
        with self._while_it_lasts():
            super().message(text)

    def announce(self, text: str) -> None:
        """Something worth a line."""
        with self._while_it_lasts():
            super().announce(text)

    @contextlib.contextmanager
    def _while_it_lasts(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a terminal may go, and the disk of a log be full, while the training is to stay
            discard_closed_output()
            if error.errno == errno.EPIPE:
                self._cancel.request("nobody reads the output any more", SIGPIPE_NUMBER)


@contextlib.contextmanager
def cancel_on_signals(cancel: Cancel, shown: Observer) -> Iterator[CancelOnBrokenPipe]:
    """Let a signal end the step under way and write a checkpoint; a second Ctrl-C stops at once.

    Args:
        cancel: stops the training.
        shown: who hears of the training.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        cancel.request(name, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError, RuntimeError):  # the terminal is gone, or was being written to
            shown.message(f"{name}: finishing this step and writing a checkpoint")

    with _handled({signal.SIGINT: ask, **_ending(ask)}):
        yield CancelOnBrokenPipe(cancel, shown)


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let a signal that ends the program do so by an exception, so that what is under way is cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handled(_ending(end)):
        yield


def is_broken_pipe(error: BaseException | None) -> bool:
    """Whether an error says that whoever read the output, or the terminal, is gone."""
    number = error.errno if isinstance(error, OSError) else None
    return number == errno.EPIPE or (number == errno.EIO and discard_closed_output())  # a disk that fails says the same


def discard_closed_output() -> bool:
    """Send to nowhere what is still to be said to whoever is gone; whether somebody is."""
    found = False
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            found = True
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return found


def _ending(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """The handler for each signal that ends a program, but for those that it was started to ignore."""
    numbers = [signal.SIGTERM] + ([_HANGUP] if _HANGUP is not None else [])
    return {number: handler for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Signals reach the main thread alone; in another, as in some notebooks, nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
