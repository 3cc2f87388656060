"""Protect a training from losing its progress: to Ctrl-C in a script or a notebook, or to an observer that raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from undiffuse.cancellation import Cancel
from undiffuse.observer import Forwarding, Observer


@contextmanager
def stopping_on_interrupt(cancel: Cancel) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop; a second one raises ``KeyboardInterrupt`` at once.

    Nothing changes outside the main thread, or if the program handles SIGINT itself.

    Args:
        cancel: is requested by the first Ctrl-C.
    Returns:
        An event that is set by the first Ctrl-C.
    """
    interrupted = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def request(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted.set()
        cancel.request("interrupted", number)

    signal.signal(signal.SIGINT, request)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class GuardedObserver(Forwarding):
    """Wraps an observer of a training that may raise: the training then stops with a checkpoint.

    Args:
        observer: receives all calls until it raises.
        stop: called when it raises.
    Attributes:
        error: the exception it raised, else None.
    """

    def __init__(self, observer: Observer, stop: Callable[[], None]) -> None:
        super().__init__(observer)
        self._stop = stop
        self.error: Exception | None = None

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Forward the progress of a step.

        Args:
            done: images seen.
            total: images of the whole run.
            part: name of the stage.
        """
        self._call_guarded(lambda: self._observer.progress(done, total, part))

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Forward a row of the metrics log.

        Args:
            kind: ``train``, ``validation`` or ``quality``.
            values: numbers by name.
        """
        self._call_guarded(lambda: self._observer.row(kind, values))

    def message(self, text: str) -> None:
        """Forward a note."""
        self._call_guarded(lambda: self._observer.message(text))

    def _call_guarded(self, call: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            call()
        except Exception as error:
            self.error = error
            self._stop()
