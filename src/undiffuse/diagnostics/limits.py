"""Limits of the doctor's options. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError

#: Two images nearer than this, over their contrast, are near-duplicates; ``doctor.duplicates`` says why.
NEAR = 0.07


def check_near(near: float) -> None:
    """Refuse what ``--near`` may not be.

    Raises:
        UsageError: no number between 0 and 1.
    """
    if not 0 < near < 1:
        raise UsageError(f"--near must lie between 0 and 1, got {near:g}; the default is {NEAR:g}")
