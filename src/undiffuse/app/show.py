"""What the terminal shows while work goes on and when it is done."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from undiffuse.app.visible import visible
from undiffuse.errors import UsageWarning

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


@cache
def console() -> Console:
    """The terminal; what draws on it is imported here, for plain lines need none of it."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error that called it; rich would end the program here, whatever is under way

    return Plain(highlight=False)


def say(text: str) -> None:
    """One line on standard output, never folded, so that a command in it can be copied."""
    print(visible(text), flush=True)


def warn(text: str) -> None:
    """One line on standard error."""
    print(f"note: {visible(text)}", file=sys.stderr)


@contextmanager
def notes_of_warnings() -> Iterator[None]:
    """What a user should know of, as a note for the terminal instead of a warning with its line of code."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, UsageWarning):
            warn(str(message))
        else:
            as_before(message, category, *where, **more)

    with warnings.catch_warnings():
        as_before, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", UsageWarning)
        yield


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``5 h 12 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=title, title_justify="left")
    for row in rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))  # a bracket in a file's name is no markup
    console().print(drawn)


def results_table(evaluation: Mapping[str, Any], title: str | None = None) -> None:
    """The results of an evaluation, a line each, and what they say in words."""
    rows = []
    for result in evaluation["results"]:
        error = "" if result["uncertainty"] is None else f" ± {result['uncertainty']:.3g}"
        value = "–" if result["value"] is None else f"{result['value']:.4g}"
        rows.append([result["metric"], f"{value}{error}", result["unit"], result["better"]])
    table(title or f"{evaluation['recipe']}", ["metric", "value", "unit", "better"], rows)
    told = [result["details"] for result in evaluation["results"] if "verdict" in result["details"]]
    for about, verdict in sorted({(row.get("about", "copying"), row["verdict"]) for row in told}):
        say(f"{about}: {verdict}")
    if cached := sum(bool(result.get("cached")) for result in evaluation["results"]):
        say(f"{cached} of {len(rows)} numbers are from the cache; --no-cache computes them anew")


def _bar(facts: str, *, shown: bool, transient: bool = False) -> Progress:
    """A bar between what is done and the facts about it."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn(facts)
    return Progress(*columns, console=console(), disable=not shown, transient=transient)


class TrainingView:
    """Live progress of a training run: a bar on a terminal, a line a log row elsewhere."""

    def __init__(self, num_images: int, images: int = 0) -> None:
        self.num_images, self.first, self.started = num_images, images, time.monotonic()
        self.live = console().is_terminal
        self.bar = _bar("{task.percentage:>3.0f}%  {task.fields[facts]}", shown=self.live)
        self.task = self.bar.add_task("training", total=num_images, completed=images, facts="")
        self.measured = {"validation": "", "quality": ""}

    def __enter__(self) -> TrainingView:
        self.bar.start()
        return self

    def __exit__(self, *args: object) -> None:
        with suppress(OSError):  # a terminal that is gone
            self.bar.stop()

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row of the journal."""
        if kind == "validation":
            self.measured["validation"] = f"  validation {values['loss']:.4f}"
            return
        if kind == "quality":
            self.measured["quality"] = f"  {values['metric']} {values['value']:.3g}"
            return
        images = values["images"]
        rate = (images - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = duration(max(self.num_images - images, 0) / max(rate, 1e-9))
        measured = "".join(self.measured.values())
        facts = f"{values['images_per_second']:.0f} images/s  loss {values['loss']:.4f}{measured}  {left} left"
        self.bar.update(self.task, completed=images, facts=facts)
        if not self.live:
            console().print(f"{images:>9} images  {facts}", soft_wrap=True)

    def message(self, text: str) -> None:
        """Something worth a line."""
        warn(text)


@contextmanager
def counting(what: str) -> Iterator[Any]:
    """A function ``tell(done, total)`` that draws a bar where someone watches."""
    if not sys.stdout.isatty():
        yield lambda done, total: None
        return
    with _bar("{task.completed:.0f} of {task.total:.0f}", shown=True, transient=True) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Working:
    """A bar for work on many items with its rate and the time left; a line every ten seconds where no one watches."""

    def __init__(self, unit: str = "pictures", amount: Callable[[float], str] = lambda value: f"{value:.0f}") -> None:
        self._unit, self._amount = unit, amount
        self._live = console().is_terminal
        self._bar = _bar("{task.fields[facts]}", shown=self._live, transient=True)
        self._task = self._bar.add_task("", total=1, facts="")
        self._what, self._first, self._began, self._told = "", 0, 0.0, 0.0

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._tell

    def __exit__(self, *args: object) -> None:
        self._bar.stop()

    def _tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:  # the first call of a piece of work says where it goes on
            self._bar.start()  # not before: a process that is forked under a running bar may wait for its lock
            self._what, self._first, self._began, self._told = what, done, now, now
        rate = (done - self._first) / (now - self._began) if now > self._began else 0.0
        left = f"  {duration((total - done) / rate)} left" if rate else ""
        of = f"{self._amount(done)} of {self._amount(total)} {self._unit}".rstrip()
        facts = f"{of}  {self._amount(rate)}/s{left}"
        self._bar.update(self._task, description=what, completed=done, total=max(total, 1), facts=facts)
        if not self._live and now - self._told > _SECONDS_BETWEEN_LINES:
            self._told = now
            console().print(f"{what}  {facts}", soft_wrap=True, markup=False)
