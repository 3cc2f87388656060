"""What a sample set may hold. Imports nothing heavy."""

from __future__ import annotations

import re

from undiffuse.errors import UsageError

#: The names of all files that a set may have; ``--overwrite`` deletes no other.
OWN_FILES = re.compile(r"\d{6,}\.png|(grid|progressive)\.png|samples\.(json|npy)|progressive\.npz|costs\.json")


def check_grid(shown: int) -> None:
    """Refuse a grid of nothing.

    Raises:
        UsageError: fewer images than one.
    """
    if shown < 1:
        raise UsageError(f"a grid needs at least 1 image, got {shown}")
