"""The errors raised on purpose. Every message states what was received, what was expected and what to do.

Any package may import this module; it imports nothing.
"""

from __future__ import annotations

#: Advice for commands that resume unfinished work by themselves.
RERUN = "run the same command again to resume"


class UndiffuseError(Exception):
    """Base class of all errors this package raises on purpose; the command line prints only the message."""

    exit_code = 1

    @property
    def reason(self) -> str:
        """The message without its advice, for use inside another message."""
        return str(self)


class StoppedError(UndiffuseError):
    """A training run was stopped on request and can be resumed (exit code 128 + the signal's number).

    Attributes:
        number: number of the signal that stopped it; 0 if none did.
        interrupted: whether Ctrl-C stopped it in a script or a notebook, rather than the command line or a ``Cancel``.
    """

    def __init__(self, message: str, number: int, interrupted: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.number, self.interrupted = 128 + number, number, interrupted

    def with_advice(self, advice: str) -> StoppedError:
        """The same error with advice on how to resume.

        Args:
            advice: appended to the message.
        """
        return StoppedError(f"{self}; {advice}", self.number, self.interrupted)


class CancelledError(UndiffuseError):
    """The caller cancelled the work; partial files were removed (exit code 130)."""

    exit_code = 130


class SamplingStoppedError(UndiffuseError):
    """The caller no longer needs the requested samples."""


class UsageError(UndiffuseError, ValueError):
    """An invalid request, configuration or file (exit code 2)."""

    exit_code = 2


class KeywordError(UsageError, TypeError):
    """A keyword argument that a function does not have."""


class UsageWarning(UserWarning):
    """A warning that does not stop the work; the command line prints it as a note."""


class RunError(UndiffuseError, RuntimeError):
    """A failure at run time: a full disk, a non-finite loss (exit code 1)."""

    exit_code = 1
