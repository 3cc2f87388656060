"""Terminal output: lines, tables, and progress of training and other work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from undiffuse.cancellation import Cancel
from undiffuse.cli.escaping import escape_unprintable
from undiffuse.cli.signals import cancel_on_signals
from undiffuse.observer import Observer, OnProgress, Silent, current_cancel
from undiffuse.progress import Estimate, ProgressLine, duration, is_off, nested_progress, status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0
#: Between updates of training without a new metrics row: on a terminal, elsewhere.
_SECONDS_BETWEEN_CHANGES, _SECONDS_BETWEEN_STEPS = 0.5, 60.0


@cache
def console() -> Console:
    """The rich console, imported lazily because plain lines do not need it."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # the current exception; rich would exit the program here

    return Plain(highlight=False)


def print_line(text: str) -> None:
    """Print a line to standard output, not wrapped, so that a command in it can be copied."""
    print(escape_unprintable(text), flush=True)


def warn(text: str) -> None:
    """Print a note to standard error."""
    print(f"note: {escape_unprintable(text)}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=title, title_justify="left")
    for row in rows:
        drawn.add_row(
            *(Text(escape_unprintable(cell)) for cell in row)
        )  # plain text: a bracket in a file name is not markup
    console().print(drawn)


def _bar(status: str, *, shown: bool, transient: bool = False, to: Console | None = None) -> Progress:
    """A progress bar with a description before and a status after it."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn(status)
    return Progress(*columns, console=to or console(), disable=not shown, transient=transient)


class TrainingView:
    """Progress of a training run: a bar on a terminal, a line per log row elsewhere."""

    def __init__(self, num_images: int, images: int = 0) -> None:
        self.num_images, self.first, self.started = num_images, images, time.monotonic()
        self.live = console().is_terminal
        self.bar = _bar("{task.percentage:>3.0f}%  {task.fields[status]}", shown=self.live)
        self.task = self.bar.add_task("training", total=num_images, completed=images, status="")
        self.measured = {"validation": "", "quality": ""}
        self.numbers, self.shown_at = "", self.started

    def __enter__(self) -> TrainingView:
        self.bar.start()
        return self

    def __exit__(self, *args: object) -> None:
        with suppress(OSError):  # the terminal is closed
            self.bar.stop()

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Show a row of the metrics log."""
        if kind == "validation":
            self.measured["validation"] = f"  validation {values['loss']:.4f}"
            return
        if kind == "quality":
            self.measured["quality"] = f"  {values['metric']} {values['value']:.3g}"
            return
        images = values["images"]
        self.numbers = f"  loss {values['loss']:.4f}{''.join(self.measured.values())}"
        self._show(images, values["images_per_second"])

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Show the progress and rate of a slow run between the rows of the metrics log."""
        now = time.monotonic()
        if is_off() or now - self.shown_at < (_SECONDS_BETWEEN_CHANGES if self.live else _SECONDS_BETWEEN_STEPS):
            return
        self._show(int(done), (done - self.first) / max(now - self.started, 1e-9))

    def _show(self, images: int, rate: float) -> None:
        self.shown_at = time.monotonic()
        average = (images - self.first) / max(self.shown_at - self.started, 1e-9)
        left = duration(max(self.num_images - images, 0) / max(average, 1e-9))
        text = f"{rate:{'.0f' if rate >= 10 else '.2g'}} images/s{self.numbers}  {left} left"
        self.bar.update(self.task, completed=images, status=text)
        if not self.live:
            console().print(f"{images:>9} images  {text}", soft_wrap=True)

    def message(self, text: str) -> None:
        """A warning or a hint for the user."""
        warn(text)

    def announce(self, text: str) -> None:
        """Work started or finished."""
        print_line(text)


@contextmanager
def progress_bar(what: str) -> Iterator[Observer]:
    """An observer of progress: a bar with the remaining time on a terminal, periodic lines elsewhere.

    It writes to standard error, so that the output of a command can be piped.
    """
    if is_off() or not sys.stderr.isatty():
        with ProgressLine(what) as counter:
            yield OnProgress(lambda done, total, part: counter.progress(done, total))
        return
    from rich.console import Console

    estimate = Estimate()
    to = Console(stderr=True, highlight=False)
    with nested_progress() as outermost, _bar("{task.fields[status]}", shown=outermost, transient=True, to=to) as bar:
        task = bar.add_task(what, total=1, status="")

        def on_progress(done: float, total: float, part: str) -> None:
            left = estimate.left(done, total)
            bar.update(task, completed=done, total=max(total, 1e-9), status=status(done, total, left))

        yield OnProgress(on_progress)


class RateBar(Silent):
    """A bar for work on many items with rate and remaining time; a line every ten seconds if not on a terminal."""

    def __init__(self, unit: str = "images", amount: Callable[[float], str] = lambda value: f"{value:.0f}") -> None:
        self._unit, self._amount = unit, amount
        self._live = console().is_terminal
        self._bar = _bar("{task.fields[status]}", shown=self._live, transient=True)
        self._task = self._bar.add_task("", total=1, status="")
        self._what, self._first, self._started, self._shown_at = "", 0.0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._bar.stop()

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Show the progress; ``part`` names the current task."""
        now = time.monotonic()
        if part != self._what:  # the first call of a task gives its starting point
            self._bar.start()  # not earlier: a process forked while a bar is running may deadlock on its lock
            self._what, self._first, self._started, self._shown_at = part, done, now, now
        rate = (done - self._first) / (now - self._started) if now > self._started else 0.0
        left = f"  {duration((total - done) / rate)} left" if rate else ""
        of = f"{self._amount(done)} of {self._amount(total)} {self._unit}".rstrip()
        status = f"{of}  {self._amount(rate)}/s{left}"
        self._bar.update(self._task, description=part, completed=done, total=max(total, 1), status=status)
        if not self._live and now - self._shown_at > _SECONDS_BETWEEN_LINES:
            self._shown_at = now
            console().print(f"{part}  {status}", soft_wrap=True, markup=False)


class Terminal(Silent):
    """The observer of a command: lines on standard output, notes on standard error, a bar for each stage."""

    def message(self, text: str) -> None:
        """Print a note to standard error."""
        warn(text)

    def announce(self, text: str) -> None:
        """Print a line to standard output."""
        print_line(text)

    @contextmanager
    def stage(self, what: str, total: float | None, done: float, unit: str) -> Iterator[Observer]:
        """A ``TrainingView`` if the total is known, a ``RateBar`` if there is a unit, else a progress bar."""
        if total is not None:
            with (
                TrainingView(int(total), int(done)) as view,
                cancel_on_signals(current_cancel() or Cancel(), view) as stop,
            ):
                yield stop
        elif unit:
            amount = size_in_bytes if unit == "bytes" else "{:.0f}".format
            with RateBar("" if unit == "bytes" else unit, amount) as bar:
                yield bar
        else:
            with progress_bar(what) as counter:
                yield counter


def size_in_bytes(count: float) -> str:
    """A number of bytes as text, such as ``3.2 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
