"""Freed memory is kept for the next forward pass instead of going back to the system between any two.

glibc hands the top of its heap back as soon as more than a little of it is free, so the largest arrays of every
forward pass are made of fresh pages, each of which the system has to find and clear. In a network at full resolution
that was a sixth of its time (docs/LOG.md). Other C libraries and allocators are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from undiffuse.compute.backend import backend

#: glibc's ``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes: what stays with the process when it is freed, the most that ``mallopt`` takes.
_KEPT = 2**31 - 1
#: Larger blocks come from the system one by one and go back to it; older glibc takes the second at most.
_LARGEST_BLOCKS = (2**30, 2**25)
#: Variables by which a user sets the allocator's limits.
_USER_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of what it frees, of each thread's heap; False where nothing was changed.

    Nothing is changed without glibc, where the environment already sets its limits, or by ``memory=off``.
    """
    if backend().memory == "off" or any(name in os.environ for name in _USER_VARIABLES):
        return False
    return _set()


@cache
def _set() -> bool:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    large = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS)  # the first that is taken
    return large and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
