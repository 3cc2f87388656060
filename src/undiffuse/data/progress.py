"""One line on a terminal that says how far something long has come; nothing where there is no terminal."""

from __future__ import annotations

import sys
import time

_EVERY_SECONDS = 0.5


class Progress:
    """Counts steps, and shows the count twice a second.

    Args:
        what: is done.
        count: steps in all.
    """

    def __init__(self, what: str, count: int) -> None:
        self._what, self._count, self._done = what, count, 0
        self._shown_at, self._shows = time.monotonic(), sys.stderr.isatty()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        if self._shows and time.monotonic() - self._shown_at >= _EVERY_SECONDS:
            self._shown_at = time.monotonic()
            sys.stderr.write(f"\r{self._what}: {self._done:,} of {self._count:,}")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._shows and self._done:
            sys.stderr.write("\r\033[K")
            self._shows = False
