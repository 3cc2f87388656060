"""Limits of the options of ``undiffuse doctor``. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError

#: Two images with a distance below this, relative to their contrast, are near-duplicates; see ``duplicates``.
NEAR = 0.07


def check_near(near: float) -> None:
    """Check the value of ``--near``.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 < near < 1:
        raise UsageError(f"--near must be between 0 and 1, got {near:g}; the default is {NEAR:g}")
