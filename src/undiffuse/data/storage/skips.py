"""What is left out of a set: counted and named, or refused."""

from __future__ import annotations

from undiffuse.errors import UsageError
from undiffuse.wording import counted

_NAMED = 3  # skipped files named in the report; the rest are counted


class _InvalidPickleError(UsageError):
    """What is not to be skipped, with the advice of how it might be."""

    def __init__(self, error: UsageError) -> None:
        super().__init__(f"{error}; mend or remove it, or skip it with data.on_error=skip")
        self._reason = str(error)

    @property
    def reason(self) -> str:
        return self._reason


class Skips:
    """Counts what is left out, or makes the first of it an error.

    Args:
        on_error: ``fail`` or ``skip``.
    """

    def __init__(self, on_error: str) -> None:
        self._on_error, self._first, self.count = on_error, list[str](), 0

    def take(self, error: UsageError) -> None:
        """Count one thing that cannot be used.

        Raises:
            UsageError: unless such things are to be skipped.
        """
        if isinstance(error, _InvalidPickleError):  # by this very set of skips, further inside
            raise error
        if self._on_error != "skip":
            raise _InvalidPickleError(error) from None
        self.count += 1
        if self.count <= _NAMED:
            self._first.append(str(error))

    @property
    def report(self) -> dict[str, str]:
        """What to say about it in a set's provenance."""
        more = f" and {self.count - _NAMED} more" if self.count > _NAMED else ""
        text = f"{counted(self.count, 'file')} left out: {'; '.join(self._first)}{more}"
        return {"skipped": text} if self.count else {}

    def check_images_left(self, kept: int, count: int) -> None:
        """Raise where none of ``count`` images is left."""
        if kept == 0:
            first = f"; the first: {self._first[0]}" if self._first else ""
            raise UsageError(f"none of the {counted(count, 'image')} can be used{first}")
