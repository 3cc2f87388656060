"""How long averages of the weights may be, see ``training.posthoc``. Imports nothing heavy."""

from __future__ import annotations

from undiffuse.errors import UsageError

#: Widest profile: gamma = 0, the plain mean of all weights so far.
WIDEST = 12**-0.5


def check_width(sigma_rel: float) -> None:
    """Refuse a relative width that no power-function profile has.

    Raises:
        UsageError: not above 0, or more than ``WIDEST``.
    """
    if not 0 < sigma_rel <= WIDEST + 1e-9:
        raise UsageError(f"sigma_rel must be above 0 and at most {WIDEST:.4f}, got {sigma_rel}")
