"""Observers: callbacks for progress and messages of long-running work. Any package may import this module.

API functions take an ``Observer`` and make it current in their context (``observing``). The code that they call reports
to the current observer: ``announce`` for results, ``note`` for warnings, and ``stage`` for progress. The observer
decides how to display them, on a terminal, in a notebook or not at all. ``Silent``, the default, sends messages to the
logger ``undiffuse``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

from undiffuse.cancellation import Cancel
from undiffuse.errors import UsageError, UsageWarning

#: Writes nothing unless the program adds a handler to it or to the root logger.
LOGGER = logging.getLogger("undiffuse")
LOGGER.addHandler(logging.NullHandler())
#: A progress callback with the arguments (done, total), for work without named parts.
ProgressCallback = Callable[[float, float], None]


class Observer(Protocol):
    """Receives progress, log rows and messages. It is called in the thread of the work and blocks it."""

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Progress of the work.

        Args:
            done: units done so far.
            total: total number of units.
            part: name of the current part, if the work has several.
        """

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A new row of the metrics log of a training run.

        Args:
            kind: ``train``, ``validation`` or ``quality``.
            values: the metrics by name.
        """

    def message(self, text: str) -> None:
        """A warning or a hint for the user; ``text`` is one line."""

    def announce(self, text: str) -> None:
        """Work started or finished, with the path of its results; ``text`` is one line."""


class Silent:
    """An observer that ignores progress; a base class for observers that override only some methods.

    Messages go to the logger ``undiffuse``, which has no output unless the program adds a handler.
    """

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Ignored."""

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Logged as a warning."""
        LOGGER.warning(text)

    def announce(self, text: str) -> None:
        """Logged as information."""
        LOGGER.info(text)


class Forwarding:
    """An observer that forwards all calls to another one; a base class for observers that change some of them.

    Args:
        observer: receives the calls.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Forwarded unchanged."""
        self._observer.progress(done, total, part)

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Forwarded unchanged."""
        self._observer.row(kind, values)

    def message(self, text: str) -> None:
        """Forwarded unchanged."""
        self._observer.message(text)

    def announce(self, text: str) -> None:
        """Forwarded unchanged."""
        self._observer.announce(text)


@runtime_checkable
class StageObserver(Protocol):
    """An observer that displays each stage of the work separately, such as the terminal."""

    def stage(self, what: str, total: float | None, done: float, unit: str) -> AbstractContextManager[Observer]:
        """An observer for one stage; the arguments are those of ``observer.stage``."""


class OnProgress(Silent):
    """An observer that calls a function with the progress.

    Args:
        on_progress: (done, total, part).
    Example:
        >>> OnProgress(print).progress(3, 8, "looking")
        3 8 looking
    """

    def __init__(self, on_progress: Callable[[float, float, str], object]) -> None:
        self._on_progress = on_progress

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Passed to the function."""
        self._on_progress(done, total, part)


class SubProgress(Forwarding):
    """An observer of one of several equal tasks, which reports their total progress.

    Args:
        parent: receives the total progress and the messages.
        finished: number of tasks that are finished.
        count: total number of tasks.
    """

    def __init__(self, parent: Observer, finished: int, count: int) -> None:
        super().__init__(parent)
        self._finished, self._count = finished, count
        self._start, self._reached, self._last = 0.0, 0.0, 0.0

    def progress(self, done: float, total: float, part: str = "") -> None:
        """The finished tasks plus the fraction of this one; its subtasks take their fraction first."""
        self._start = self._reached
        self._on_progress(self._start + (1 - self._start) * _fraction(done, total), part)

    def subtasks(self) -> Observer:
        """An observer of the subtasks of this task, such as loading, which run one after another.

        Their number is unknown: each subtask takes half of the remaining fraction of the task.
        """
        return _Subtask(self)

    def subtask_progress(self, done: float, total: float, part: str) -> None:
        """Progress of the current subtask.

        Args:
            done: units done so far.
            total: total number of units.
            part: name of the current part.
        """
        fraction = _fraction(done, total)
        if fraction < self._last:
            self._start = self._reached  # a new subtask
        self._last = fraction
        self._reached = self._start + (1 - self._start) / 2 * fraction
        self._on_progress(self._reached, part)

    def _on_progress(self, fraction: float, part: str) -> None:
        self._observer.progress(self._finished + fraction, self._count, part)


class _Subtask(Forwarding):
    """An observer of a task's subtasks; forwards all calls but the progress to the task's observer."""

    def __init__(self, task: SubProgress) -> None:
        super().__init__(task)
        self._task = task

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Reported as a fraction of the task."""
        self._task.subtask_progress(done, total, part)


def _fraction(done: float, total: float) -> float:
    return min(done / max(total, 1e-9), 1.0)


SILENT = Silent()


#: Hooks called at each progress report except those of training; ``compute.wait_policy`` adds one.
BETWEEN_STEPS: list[Callable[[], object]] = []
#: Type of the argument ``observer`` of API functions.
Observing = Observer | Callable[[float, float, str], object]


class _ObserverContext(NamedTuple):
    observer: Observer
    cancel: Cancel | None


_CONTEXT: ContextVar[_ObserverContext | None] = ContextVar("observer", default=None)


@contextmanager
def observing(observer: Observing | None, cancel: Cancel | None = None) -> Iterator[None]:
    """Make ``observer`` and ``cancel`` the current ones inside this context.

    Args:
        observer: an ``Observer``, or a function of (done, total, part). None keeps the current one, or ``SILENT`` if
            there is none.
        cancel: a cancellation token; None keeps the current one, if any.
    Raises:
        UsageError: ``observer`` is neither an observer nor a function, or ``cancel`` is not a ``Cancel``.
    """
    before = _CONTEXT.get()
    if cancel is not None and not isinstance(cancel, Cancel):
        raise UsageError(f"cancel must be an undiffuse.Cancel, got {cancel!r}")
    current = _observer(observer) if observer is not None else before.observer if before is not None else SILENT
    token = _CONTEXT.set(_ObserverContext(current, cancel or (before.cancel if before is not None else None)))
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def _observer(given: Observing) -> Observer:
    methods = [hasattr(given, name) for name in ("progress", "row", "message", "announce")]
    if all(methods) and not isinstance(given, type):
        return given  # type: ignore[return-value]
    if callable(given) and not any(methods):
        return OnProgress(given)
    raise UsageError(
        "observer must be a function of (done, total, part), or an object that derives from undiffuse.observer.Silent, "
        f"got {given!r}"
    )


def current_observer() -> Observer | None:
    """The current observer, if any."""
    context = _CONTEXT.get()
    return context.observer if context is not None else None


def current_cancel() -> Cancel | None:
    """The current cancellation token, if any."""
    context = _CONTEXT.get()
    return context.cancel if context is not None else None


def check_cancelled() -> None:
    """Raise an error if cancellation of the current work was requested.

    Raises:
        CancelledError: cancellation was requested.
    """
    if (cancel := current_cancel()) is not None:
        cancel.check()


def announce(text: str) -> None:
    """Report that work started or finished; does nothing without an observer."""
    if (observer := current_observer()) is not None:
        observer.announce(text)


def note(text: str) -> None:
    """Report a warning or a hint to the user; issues a ``UsageWarning`` without an observer."""
    if (observer := current_observer()) is not None:
        observer.message(text)
    else:
        warnings.warn(text, UsageWarning, stacklevel=3)


@contextmanager
def not_cancelled() -> Iterator[None]:
    """Disable the current cancellation token, for work that handles cancellation itself, such as training."""
    before = _CONTEXT.get()
    token = _CONTEXT.set(before._replace(cancel=None) if before is not None else None)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


@contextmanager
def stage(what: str, total: float | None = None, done: float = 0, unit: str = "") -> Iterator[Observer]:
    """Start a named stage of the work; its progress is reported to the yielded observer.

    Args:
        what: name of the stage, such as ``sampling``.
        total: total number of units, if known at the start.
        done: units done before, such as by a run that is resumed.
        unit: name of the units, such as ``images``; if empty, a percentage is shown.
    Raises:
        CancelledError: at a progress report after a cancellation request.
    """
    observer = current_observer()
    if observer is None:
        yield SILENT
        return
    context = observer.stage(what, total, done, unit) if isinstance(observer, StageObserver) else nullcontext(observer)
    with context as stage_observer:
        name = what if stage_observer is observer else ""
        yield _Stage(stage_observer, name, run_hooks=total is None)  # training runs the hooks itself


class _Stage(Forwarding):
    """The observer of one stage: adds its name to the progress and checks for cancellation."""

    def __init__(self, observer: Observer, what: str, run_hooks: bool) -> None:
        super().__init__(observer)
        self._what, self._run_hooks = what, run_hooks

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Check for cancellation, run the hooks, which adapt to the load of the machine, and forward the progress."""
        check_cancelled()
        if self._run_hooks:
            for hook in BETWEEN_STEPS:
                hook()
        super().progress(done, total, part or self._what)
