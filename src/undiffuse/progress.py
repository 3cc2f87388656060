"""Progress and remaining time on standard error. Any package may import this module.

On a terminal and in a notebook, one line is updated in place after the first two seconds and cleared at the end;
otherwise, such as in a file, a line is written every 30 seconds. ``UNDIFFUSE_PROGRESS=off`` turns it off.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

from undiffuse.observer import SILENT, Observer, Silent, StageObserver, check_cancelled, current_observer

#: Environment variable that turns progress off.
VARIABLE = "UNDIFFUSE_PROGRESS"
#: Seconds before the line on a terminal appears, between its updates, and before and between lines elsewhere.
_DELAY, _INTERVAL, _LINE_INTERVAL = 2.0, 0.2, 30.0
_BAR = 24
#: The nested tasks that are running; only the outermost is shown.
_RUNNING: list[object] = []


def is_off() -> bool:
    """Whether the user turned progress off."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("off", "0", "false", "no")


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``5 h 12 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def nested_progress() -> Iterator[bool]:
    """Mark a task as running; yields whether it is the outermost one."""
    outermost, mark = not _RUNNING, object()
    _RUNNING.append(mark)
    try:
        yield outermost
    finally:
        _RUNNING.remove(mark)


class Estimate:
    """Estimates the remaining time from the rate since the first call.

    Example:
        >>> estimate = Estimate()
        >>> estimate.left(0, 10, now=0.0), estimate.left(5, 10, now=3.0)
        (None, 3.0)
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float, now: float | None = None) -> float | None:
        """Seconds until ``done`` reaches ``total``; None if there is no estimate yet."""
        now = time.monotonic() if now is None else now
        if self._first is None or done < self._first[1]:
            self._first = now, done
        started, first_done = self._first
        if done <= first_done or now <= started:
            return None
        return max(total - done, 0.0) * (now - started) / (done - first_done)


def amount(done: float, total: float) -> str:
    """``3 of 8`` for integer counts, else ``42%``."""
    is_count = float(done).is_integer() and float(total).is_integer() and total > 1
    return f"{done:.0f} of {total:.0f}" if is_count else f"{100 * done / max(total, 1e-9):.0f}%"


def status(done: float, total: float, left: float | None) -> str:
    """``3 of 8  12 s left``."""
    return f"{amount(done, total)}  {duration(left)} left" if left is not None else amount(done, total)


class ProgressLine(Silent):
    """An observer that shows the progress of one task in a line.

    Args:
        what: name of the task.
        shown: whether to show it; by default, unless progress is turned off.
        to: output stream; standard error by default.
    Example:
        >>> with ProgressLine("sampling", shown=False) as counter:
        ...     counter.progress(1, 2)
    """

    def __init__(self, what: str, shown: bool | None = None, to: TextIO | None = None) -> None:
        self._what, self._to = what, to if to is not None else sys.stderr
        self._shown = (not is_off()) if shown is None else shown
        self._line = _rewrites(self._to)
        self._estimate, self._started, self._last, self._width = Estimate(), time.monotonic(), 0.0, 0
        self._parent: Observer = SILENT

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._nesting, observer = nested_progress(), current_observer()
        is_displayed_here = observer is None or isinstance(observer, StageObserver)
        self._parent = SILENT if observer is None or is_displayed_here else observer
        self._shown = self._nesting.__enter__() and self._shown and is_displayed_here
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._nesting.__exit__(kind, error, at)
        if self._width:
            self._write(f"\r{' ' * self._width}\r")

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Update the line at intervals, or forward the progress to the current observer."""
        check_cancelled()
        self._parent.progress(done, total, self._what)
        now = time.monotonic()
        left = self._estimate.left(done, total, now)
        delay, interval = (_DELAY, _INTERVAL) if self._line else (_LINE_INTERVAL, _LINE_INTERVAL)
        if not self._shown or now - self._started < delay or now - self._last < interval:
            return
        self._last = now
        text = f"{self._what}  {status(done, total, left)}"
        if not self._line:
            self._write(f"{text}\n")
            return
        filled = round(_BAR * min(done / max(total, 1e-9), 1))
        text = f"{self._what}  {'━' * filled}{'─' * (_BAR - filled)}  {status(done, total, left)}"
        self._write(f"\r{text}{' ' * max(self._width - len(text), 0)}")
        self._width = len(text)

    def _write(self, text: str) -> None:
        try:
            self._to.write(text)
            self._to.flush()
        except (OSError, ValueError):  # the stream is closed, or cannot encode the bar
            self._shown, self._width = False, 0


def _rewrites(to: TextIO) -> bool:
    """Whether a line can be overwritten: on a terminal, and in a notebook, whose stream is not a terminal."""
    notebook = type(to).__module__.startswith("ipykernel")
    return notebook or (hasattr(to, "isatty") and to.isatty())
