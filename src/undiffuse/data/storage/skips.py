"""Unusable items of a data set: skipped and counted, or raised as errors."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.wording import count_noun

_NAMED = 3  # skipped files listed in the report; the rest are counted


class _NotSkippedError(UsageError):
    """An unusable item with ``on_error=fail``; the message tells how to skip it."""

    def __init__(self, error: UsageError) -> None:
        super().__init__(f"{error}; fix or remove it, or skip it with data.on_error=skip")
        self._reason = str(error)

    @property
    def reason(self) -> str:
        return self._reason


class Skips:
    """Counts unusable items, or raises an error for the first one.

    Args:
        on_error: ``fail`` or ``skip``.
    """

    def __init__(self, on_error: str) -> None:
        self._on_error, self._first, self.count = on_error, list[str](), 0

    def take(self, error: UsageError) -> None:
        """Count one unusable item.

        Raises:
            UsageError: unless ``on_error`` is ``skip``.
        """
        if isinstance(error, _NotSkippedError):  # already raised by a nested call
            raise error
        if self._on_error != "skip":
            raise _NotSkippedError(error) from None
        self.count += 1
        if self.count <= _NAMED:
            self._first.append(str(error))

    @property
    def report(self) -> dict[str, str]:
        """Provenance entry about the skipped items; empty if there are none."""
        more = f" and {self.count - _NAMED} more" if self.count > _NAMED else ""
        text = f"{count_noun(self.count, 'file')} left out: {'; '.join(self._first)}{more}"
        return {"skipped": text} if self.count else {}

    def check_images_left(self, num_left: int, count: int) -> None:
        """Raise UsageError if none of ``count`` images is left."""
        if num_left == 0:
            first = f"; the first: {self._first[0]}" if self._first else ""
            raise UsageError(f"none of the {count_noun(count, 'image')} can be used{first}")
