"""Cancellation of running work from any thread. Any package may import this module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from undiffuse.errors import CancelledError


class Cancel:
    """A cancellation token, passed to API functions as ``cancel`` and requested from any thread; it cannot be reset.

    A training run finishes its current step and writes a checkpoint to resume from. All other work raises a
    ``CancelledError`` at its next progress report and leaves no partial files.

    Attributes:
        cause: the reason, as text.
        number: the signal that requested it; 0 for none.
    Example:
        >>> cancel = Cancel()
        >>> cancel.request()
        >>> cancel.requested
        True
    """

    def __init__(self) -> None:
        # a signal handler may interrupt its own thread's request: the lock must be reentrant, which an Event's is not
        self._requested, self._lock = False, threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self.cause, self.number = "", 0

    @property
    def requested(self) -> bool:
        """Whether cancellation was requested."""
        return self._requested

    def request(self, cause: str = "cancelled", number: int = 0) -> None:
        """Request cancellation; only the first request has an effect.

        Args:
            cause: the reason, as text.
            number: the signal that requests it, if any.
        """
        with self._lock:
            if self._requested:
                return
            self.cause, self.number, self._requested = cause, number, True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def check(self) -> None:
        """Raise an error if cancellation was requested.

        Raises:
            CancelledError: cancellation was requested.
        """
        if self.requested:
            raise CancelledError(self.cause)

    @contextmanager
    def calling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` on a request inside this context, or immediately if there was one before.

        Args:
            listener: takes no arguments; called in the thread that makes the request.
        """
        with self._lock:
            self._listeners.append(listener)
            already_requested = self.requested
        try:
            if already_requested:
                listener()
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
