"""What work that takes long reports to whoever started it, while it goes on. Any room may import this module.

A verb is given an ``Observer`` and makes it the current one of its thread (``observing``); whatever works within it
reports there: ``announce`` what came of it, ``note`` what a user should know, and ``stage`` for how far it is. How that
is shown, on a terminal, in a notebook or nowhere, is no concern of the work. Without an observer nothing is shown, and
lines go to the logger ``undiffuse``.
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

#: Silent unless a program gives it, or the root, a handler.
LOGGER = logging.getLogger("undiffuse")
LOGGER.addHandler(logging.NullHandler())
#: Hears of one thing alone: (done, total). What an observer's ``progress`` is, for work that says no more than that.
ProgressCallback = Callable[[float, float], None]


class Observer(Protocol):
    """Hears what happens, to show it. It is called in the thread of the work and keeps that waiting."""

    def progress(self, done: float, total: float, part: str = "") -> None:
        """How far the work is.

        Args:
            done: of ``total``, in whatever the work counts.
            total: all of it.
            part: what is done, where there are several things.
        """

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row was added to the log of a training.

        Args:
            kind: ``train``, ``validation`` or ``quality``.
            values: its numbers by name.
        """

    def message(self, text: str) -> None:
        """Something that a user should know happened; ``text`` is one line."""

    def announce(self, text: str) -> None:
        """Something began or is done, and where it is; ``text`` is one line."""


class Silent:
    """An observer that shows nothing, and what one derives from that listens to some of it alone.

    Lines go to the logger ``undiffuse``, which writes nowhere unless a program says where.
    """

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Nothing."""

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """A warning of the logger."""
        LOGGER.warning(text)

    def announce(self, text: str) -> None:
        """An information of the logger."""
        LOGGER.info(text)


class Forwarding:
    """An observer that passes all of it on, and what one derives from that changes some of it on the way.

    Args:
        observer: who is passed on to.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def progress(self, done: float, total: float, part: str = "") -> None:
        """As it is."""
        self._observer.progress(done, total, part)

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """As it is."""
        self._observer.row(kind, values)

    def message(self, text: str) -> None:
        """As it is."""
        self._observer.message(text)

    def announce(self, text: str) -> None:
        """As it is."""
        self._observer.announce(text)


@runtime_checkable
class StageObserver(Protocol):
    """An observer that draws each stage of the work by itself, as a terminal does."""

    def stage(self, what: str, total: float | None, done: float, unit: str) -> AbstractContextManager[Observer]:
        """See ``stage`` of this module."""


class OnProgress(Silent):
    """An observer that hands progress to a function.

    Args:
        on_progress: (done, total, part).
    Example:
        >>> OnProgress(print).progress(3, 8, "looking")
        3 8 looking
    """

    def __init__(self, on_progress: Callable[[float, float, str], object]) -> None:
        self._on_progress = on_progress

    def progress(self, done: float, total: float, part: str = "") -> None:
        """What the function is given."""
        self._on_progress(done, total, part)


class SubProgress(Forwarding):
    """An observer of one of several like pieces of work, which counts as a part of the whole.

    Args:
        whole: hears how far all of them have come, and what is worth a line.
        made: how many came before.
        count: of all.
    """

    def __init__(self, whole: Observer, made: int, count: int) -> None:
        super().__init__(whole)
        self._made, self._count = made, count
        self._begun, self._came_to, self._last = 0.0, 0.0, 0.0

    def progress(self, done: float, total: float, part: str = "") -> None:
        """The pieces before, and the share of this one: of what its errands have left of it."""
        self._begun = self._came_to
        self._on_progress(self._begun + (1 - self._begun) * _share(done, total), part)

    def subtasks(self) -> Observer:
        """Hears of work that this piece has done for it, such as loading, one errand after another.

        None of them knows how many there are: each takes half of what is left of the piece.
        """
        return _Subtask(self)

    def subtask_progress(self, done: float, total: float, part: str) -> None:
        """How far the errand under way is.

        Args:
            done: of ``total``.
            total: all of it.
            part: what is done.
        """
        share = _share(done, total)
        if share < self._last:
            self._begun = self._came_to  # another one
        self._last = share
        self._came_to = self._begun + (1 - self._begun) / 2 * share
        self._on_progress(self._came_to, part)

    def _on_progress(self, share: float, part: str) -> None:
        self._observer.progress(self._made + share, self._count, part)


class _Subtask(Forwarding):
    """Hears of work that a piece has done for it; all but the progress goes where that of the piece goes."""

    def __init__(self, piece: SubProgress) -> None:
        super().__init__(piece)
        self._piece = piece

    def progress(self, done: float, total: float, part: str = "") -> None:
        """A share of the piece."""
        self._piece.subtask_progress(done, total, part)


def _share(done: float, total: float) -> float:
    return min(done / max(total, 1e-9), 1.0)


SILENT = Silent()


#: Called at each report of progress but a training's, by whoever adjusts how the machine is used while work goes on.
BETWEEN_STEPS: list[Callable[[], object]] = []
#: What a verb takes as its ``observer``.
Observing = Observer | Callable[[float, float, str], object]


class _ObserverContext(NamedTuple):
    observer: Observer
    cancel: Cancel | None


_CONTEXT: ContextVar[_ObserverContext | None] = ContextVar("listening", default=None)


@contextmanager
def observing(observer: Observing | None, cancel: Cancel | None = None) -> Iterator[None]:
    """While some work goes on: what it reports in this thread goes to ``observer``, and ``cancel`` can stop it.

    Args:
        observer: an ``Observer``, or a function of (done, total, part). None for whoever observes already, or else
            nobody: nothing is shown.
        cancel: a request to stop; by default the one that holds already, if one does.
    Raises:
        UsageError: what is neither an observer nor a function, or no ``Cancel``.
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
    """Whoever hears of this thread's work, if anybody does."""
    context = _CONTEXT.get()
    return context.observer if context is not None else None


def current_cancel() -> Cancel | None:
    """What can stop this thread's work, if anything can."""
    context = _CONTEXT.get()
    return context.cancel if context is not None else None


def check_cancelled() -> None:
    """End the work of this thread if that was asked for.

    Raises:
        CancelledError: this thread's work is to stop.
    """
    if (cancel := current_cancel()) is not None:
        cancel.check()


def announce(text: str) -> None:
    """Say that something began or is done; nothing where nobody listens."""
    if (observer := current_observer()) is not None:
        observer.announce(text)


def note(text: str) -> None:
    """Say what a user should know; a ``UsageWarning`` where nobody listens."""
    if (observer := current_observer()) is not None:
        observer.message(text)
    else:
        warnings.warn(text, UsageWarning, stacklevel=3)


@contextmanager
def not_cancelled() -> Iterator[None]:
    """While some work goes on that has its own way to stop, such as a training with its checkpoint."""
    before = _CONTEXT.get()
    token = _CONTEXT.set(before._replace(cancel=None) if before is not None else None)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


@contextmanager
def stage(what: str, total: float | None = None, done: float = 0, unit: str = "") -> Iterator[Observer]:
    """A piece of work with a name, whose progress is reported to the observer that is given.

    Args:
        what: is done, such as ``sampling``.
        total: all of it, where that is known from the beginning.
        done: before, such as by a run that is resumed.
        unit: of what is counted, such as ``images``; of nothing, the share is shown.
    Raises:
        CancelledError: at a report of progress, where the work is to stop.
    """
    observer = current_observer()
    if observer is None:
        yield SILENT
        return
    own = observer.stage(what, total, done, unit) if isinstance(observer, StageObserver) else nullcontext(observer)
    with own as drawn:
        yield _Stage(drawn, "" if drawn is not observer else what, looks=total is None)  # a training looks itself


class _Stage(Forwarding):
    """One stage: names it to an observer that hears of all of them, and ends it when it is cancelled."""

    def __init__(self, observer: Observer, what: str, looks: bool) -> None:
        super().__init__(observer)
        self._what, self._looks = what, looks

    def progress(self, done: float, total: float, part: str = "") -> None:
        """As it is; also a look at the processor, so that waiting threads give way where others use it."""
        check_cancelled()
        if self._looks:
            for look in BETWEEN_STEPS:
                look()
        super().progress(done, total, part or self._what)
