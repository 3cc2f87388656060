"""Requests to stop work that is under way, from any thread. Any room may import this module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from undiffuse.errors import CancelledError


class Cancel:
    """A request to stop, handed to a verb as ``cancel`` and made from any thread, once and for good.

    A training ends after the step under way with a checkpoint to resume from; all other work ends where it next
    reports progress, with a ``CancelledError``, and leaves nothing half written.

    Attributes:
        cause: why, in words.
        number: of the signal that asked for it; 0 for none.
    Example:
        >>> cancel = Cancel()
        >>> cancel.request()
        >>> cancel.requested
        True
    """

    def __init__(self) -> None:
        # a signal's handler may make a request while its thread makes one: the lock lets it in, an Event's would not
        self._requested, self._lock = False, threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self.cause, self.number = "", 0

    @property
    def requested(self) -> bool:
        """Whether the work is to stop."""
        return self._requested

    def request(self, cause: str = "cancelled", number: int = 0) -> None:
        """Ask the work to stop; of several requests the first one counts.

        Args:
            cause: why, in words.
            number: of the signal that asks for it, if one does.
        """
        with self._lock:
            if self._requested:
                return
            self.cause, self.number, self._requested = cause, number, True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def check(self) -> None:
        """End the work if that was asked for.

        Raises:
            CancelledError: the work is to stop.
        """
        if self.requested:
            raise CancelledError(self.cause)

    @contextmanager
    def calling(self, listener: Callable[[], None]) -> Iterator[None]:
        """While some work goes on: ``listener`` is called when it is to stop, or at once if it is already.

        Args:
            listener: takes nothing; called in the thread that makes the request.
        """
        with self._lock:
            self._listeners.append(listener)
            at_once = self.requested
        try:
            if at_once:
                listener()
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
