"""The errors a user may meet. Every message says what was received, what was expected and what to do.

Any room may import this module; it imports nothing.
"""

from __future__ import annotations


class UndiffuseError(Exception):
    """Base of all errors this package raises on purpose; the command line prints its message alone."""

    exit_code = 1

    @property
    def reason(self) -> str:
        """The message without advice that another message may replace."""
        return str(self)


class StoppedError(UndiffuseError):
    """Work was stopped by a signal, or lacking a reader, and can be resumed (exit code 128 + the signal)."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class CancelledError(UndiffuseError):
    """Whoever began the work no longer wants it; what it had half written is gone (exit code 130)."""

    exit_code = 130


class SamplingStoppedError(UndiffuseError):
    """Whoever asked for samples no longer wants them."""


class UsageError(UndiffuseError, ValueError):
    """A request, a configuration or a file that cannot be served as given (exit code 2)."""

    exit_code = 2


class KeywordError(UsageError, TypeError):
    """A keyword argument that a function does not have."""


class UsageWarning(UserWarning):
    """Something that a user should know while the work goes on; the command line prints it as a note."""


class RunError(UndiffuseError, RuntimeError):
    """A failure while work was under way: a full disk, a non-finite loss (exit code 1)."""

    exit_code = 1
