"""Keep freed memory in the process between forward passes instead of returning it to the operating system.

glibc trims the top of its heap as soon as a small part of it is free, so the largest arrays of every forward pass
consist of new pages, which the kernel has to allocate and clear. In a network at full resolution that took a sixth of
the time (docs/LOG.md). Other C libraries and allocators are not changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from undiffuse.compute.backend import backend

#: glibc's ``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Trim threshold in bytes, the largest value that ``mallopt`` accepts.
_TRIM_BYTES = 2**31 - 1
#: mmap thresholds in bytes; older glibc accepts at most the second.
_MMAP_BYTES = (2**30, 2**25)
#: Variables by which a user sets the allocator's limits.
_USER_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of freed memory per thread heap; returns False if nothing was changed.

    Nothing is changed without glibc, if the environment already sets its limits, or with ``memory=off``.
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
    accepted = any(mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_BYTES)  # the first accepted value
    return accepted and bool(mallopt(_TRIM_THRESHOLD, _TRIM_BYTES))
