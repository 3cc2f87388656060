"""What must not cost a training: Ctrl-C in a script or a notebook, and an observer that raises."""

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
def ending_by_interrupt(cancel: Cancel) -> Iterator[None]:
    """Let Ctrl-C make a request to stop, and a second one stop at once; a program that handles it itself keeps to that.

    Args:
        cancel: stops the training with a checkpoint.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel.request("interrupted", number)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class GuardedObserver(Forwarding):
    """An observer of a training that may raise: the training ends with a checkpoint, and the error is kept for then.

    Args:
        observer: who is passed on to, until it raises.
        stop: asks the training to stop.
    Attributes:
        error: what it raised, if it did.
    """

    def __init__(self, observer: Observer, stop: Callable[[], None]) -> None:
        super().__init__(observer)
        self._stop = stop
        self.error: Exception | None = None

    def progress(self, done: float, total: float, part: str = "") -> None:
        """A step was made.

        Args:
            done: images seen.
            total: of the run.
            part: what is done.
        """
        self._until_it_fails(lambda: self._observer.progress(done, total, part))

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row of the metrics log.

        Args:
            kind: ``train``, ``validation`` or ``quality``.
            values: its numbers by name.
        """
        self._until_it_fails(lambda: self._observer.row(kind, values))

    def message(self, text: str) -> None:
        """Something worth a line."""
        self._until_it_fails(lambda: self._observer.message(text))

    def _until_it_fails(self, call: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            call()
        except Exception as error:
            self.error = error
            self._stop()
