"""What work that takes long tells whoever started it, while it goes on. Any room may import this module.

The work is given an ``Observer`` and says what happens. How that is shown, on a terminal, in a notebook or nowhere, is
no concern of the work: what draws is ``progress`` and the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

#: Hears of one thing alone: (done, total). What an observer's ``progress`` is, for work that says no more than that.
Tell = Callable[[float, float], None]


class Observer(Protocol):
    """Hears what happens, to show it. It is called in the thread of the work and keeps that waiting."""

    def progress(self, done: float, total: float, part: str = "") -> None:
        """``done`` of ``total``, in whatever the work counts; ``part`` names what is done, where there are several."""

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row of the journal was written: ``train``, ``validation`` or ``quality``, and its numbers by name."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""


class Silent:
    """An observer that shows nothing, and what one derives from that listens to some of it alone."""

    def progress(self, done: float, total: float, part: str = "") -> None:
        """Nothing."""

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


class OnProgress(Silent):
    """An observer that hands progress to a function.

    Args:
        tell: (done, total, part).
    Example:
        >>> OnProgress(print).progress(3, 8, "looking")
        3 8 looking
    """

    def __init__(self, tell: Callable[[float, float, str], object]) -> None:
        self._tell = tell

    def progress(self, done: float, total: float, part: str = "") -> None:
        """What the function is given."""
        self._tell(done, total, part)


class Within(Silent):
    """An observer of one of several like pieces of work, which counts as a part of the whole.

    Args:
        whole: hears how far all of them have come, and what is worth a line.
        made: how many came before.
        count: of all.
    """

    def __init__(self, whole: Observer, made: int, count: int) -> None:
        self._whole, self._made, self._count = whole, made, count
        self._begun, self._came_to, self._last = 0.0, 0.0, 0.0

    def progress(self, done: float, total: float, part: str = "") -> None:
        """The pieces before, and the share of this one: of what its errands have left of it."""
        self._begun = self._came_to
        self._tell(self._begun + (1 - self._begun) * _share(done, total), part)

    def errands(self) -> Observer:
        """Hears of work that this piece has done for it, such as loading, one errand after another.

        None of them knows how many there are: each takes half of what is left of the piece.
        """
        return OnProgress(self._of_errand)

    def _of_errand(self, done: float, total: float, part: str) -> None:
        share = _share(done, total)
        if share < self._last:
            self._begun = self._came_to  # another one
        self._last = share
        self._came_to = self._begun + (1 - self._begun) / 2 * share
        self._tell(self._came_to, part)

    def _tell(self, share: float, part: str) -> None:
        self._whole.progress(self._made + share, self._count, part)

    def message(self, text: str) -> None:
        """As it is."""
        self._whole.message(text)


def _share(done: float, total: float) -> float:
    return min(done / max(total, 1e-9), 1.0)


SILENT = Silent()
