"""Valid widths of weight averages, see ``training.posthoc``. Has no heavy imports."""

from __future__ import annotations

from undiffuse.errors import UsageError

#: Width of the widest profile: gamma = 0, the arithmetic mean of all weights so far.
WIDEST = 12**-0.5


def check_width(sigma_rel: float) -> None:
    """Check that a power-function profile with this relative width exists.

    Raises:
        UsageError: if ``sigma_rel`` is not in (0, ``WIDEST``].
    """
    if not 0 < sigma_rel <= WIDEST + 1e-9:
        raise UsageError(f"sigma_rel must be above 0 and at most {WIDEST:.4f}, got {sigma_rel}")
