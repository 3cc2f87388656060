"""How far something long has come and how long it will take, on standard error. Any room may import this module.

On a terminal and in a notebook one line shows it, from the second second on, and is cleared at the end; elsewhere, such
as in a file, a line is written every half minute. ``UNDIFFUSE_PROGRESS=off`` says nothing at all.
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

#: The variable that turns progress off.
VARIABLE = "UNDIFFUSE_PROGRESS"
#: Seconds before a line is shown on a terminal, between its changes, and before and between lines elsewhere.
_DELAY, _INTERVAL, _LINE_INTERVAL = 2.0, 0.2, 30.0
_BAR = 24
#: Pieces of work that are under way, one within the other; only the outermost is shown.
_UNDER_WAY: list[object] = []


def is_off() -> bool:
    """Whether the user wants to see no progress."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("off", "0", "false", "no")


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``5 h 12 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def under_way() -> Iterator[bool]:
    """While some work goes on; tells whether it is no part of other work that is shown."""
    outermost, mark = not _UNDER_WAY, object()
    _UNDER_WAY.append(mark)
    try:
        yield outermost
    finally:
        _UNDER_WAY.remove(mark)


class Estimate:
    """How much longer something takes, by how long it took so far: what was done before the first call is not counted.

    Example:
        >>> estimate = Estimate()
        >>> estimate.left(0, 10, now=0.0), estimate.left(5, 10, now=3.0)
        (None, 3.0)
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float, now: float | None = None) -> float | None:
        """Seconds until ``done`` is ``total``; None as long as nothing can be said."""
        now = time.monotonic() if now is None else now
        if self._first is None or done < self._first[1]:
            self._first = now, done
        began, at_first = self._first
        if done <= at_first or now <= began:
            return None
        return max(total - done, 0.0) * (now - began) / (done - at_first)


def amount(done: float, total: float) -> str:
    """``3 of 8`` where whole things are counted, else ``42%``."""
    whole = float(done).is_integer() and float(total).is_integer() and total > 1
    return f"{done:.0f} of {total:.0f}" if whole else f"{100 * done / max(total, 1e-9):.0f}%"


def status(done: float, total: float, left: float | None) -> str:
    """``3 of 8  12 s left``."""
    return f"{amount(done, total)}  {duration(left)} left" if left is not None else amount(done, total)


class ProgressLine(Silent):
    """An observer that shows how far ``what`` has come.

    Args:
        what: is done.
        shown: whether to show it; by default unless it is turned off.
        to: where; standard error by default.
    Example:
        >>> with ProgressLine("sampling", shown=False) as counter:
        ...     counter.progress(1, 2)
    """

    def __init__(self, what: str, shown: bool | None = None, to: TextIO | None = None) -> None:
        self._what, self._to = what, to if to is not None else sys.stderr
        self._shown = (not is_off()) if shown is None else shown
        self._line = _rewrites(self._to)
        self._estimate, self._began, self._last, self._width = Estimate(), time.monotonic(), 0.0, 0
        self._whole: Observer = SILENT

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._way, observer = under_way(), current_observer()
        drawn_here = observer is None or isinstance(observer, StageObserver)
        self._whole = SILENT if observer is None or drawn_here else observer
        self._shown = self._way.__enter__() and self._shown and drawn_here
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._way.__exit__(kind, error, at)
        if self._width:
            self._write(f"\r{' ' * self._width}\r")

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Show it, now and then; or tell whoever shows the work that this is a part of."""
        check_cancelled()
        self._whole.progress(done, total, self._what)
        now = time.monotonic()
        left = self._estimate.left(done, total, now)
        patience, every = (_DELAY, _INTERVAL) if self._line else (_LINE_INTERVAL, _LINE_INTERVAL)
        if not self._shown or now - self._began < patience or now - self._last < every:
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
        except (OSError, ValueError):  # who listened is gone, or cannot show a bar
            self._shown, self._width = False, 0


def _rewrites(to: TextIO) -> bool:
    """Whether a line can be written anew: on a terminal, and in a notebook, which says that it is none."""
    notebook = type(to).__module__.startswith("ipykernel")
    return notebook or (hasattr(to, "isatty") and to.isatty())
