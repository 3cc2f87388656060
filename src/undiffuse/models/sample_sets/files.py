"""The files of a sample set. Has no heavy imports."""

from __future__ import annotations

import re

from undiffuse.errors import UsageError

#: Names of all files that a sample set may have; ``--overwrite`` does not delete other files.
OWN_FILES = re.compile(r"\d{6,}\.png|(grid|progressive)\.png|samples\.(json|npy)|progressive\.npz|costs\.json")


def check_grid(shown: int) -> None:
    """Check that a grid has at least one image.

    Raises:
        UsageError: if ``shown`` is less than 1.
    """
    if shown < 1:
        raise UsageError(f"a grid needs at least 1 image, got {shown}")
