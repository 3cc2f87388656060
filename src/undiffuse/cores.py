"""Number of CPU cores available to this process, by affinity and cgroup quota. Any package may import this module.

A container's CPU limit (``docker run --cpus=2``) is a cgroup quota and changes neither the machine's number of cores
nor the process's affinity; a process with a thread per core is throttled once the quota of a period is used up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: Environment variables that set the number of threads.
USER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def allowed_cores() -> int:
    """Number of cores in the CPU affinity of the process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_cores() -> int:
    """Number of cores that the process may keep busy: its affinity, or fewer if a quota limits it; at least 1.

    A quota of 1.5 cores counts as 1: synchronised threads are as fast as the slowest one.
    """
    allowed = allowed_cores()
    limit = quota()
    return allowed if limit is None else max(1, min(allowed, int(limit + 1e-6)))


def quota(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float | None:
    """The CPU quota of the process's cgroups in cores; None if there is none.

    Args:
        groups: the file that lists the process's cgroups, version 1 or 2.
        mount: where the cgroup file system is mounted.
    """
    quotas = [cores for folder in _folders(groups, mount) if (cores := _group_quota(folder)) is not None]
    return min(quotas, default=None)


def limit_threads() -> None:
    """Set ``OMP_NUM_THREADS`` to the quota, unless the user set a number of threads.

    By default, the libraries use all cores of the process's affinity. Call this before torch is imported.
    """
    if not any(name in os.environ for name in USER_VARIABLES) and num_cores() < allowed_cores():
        os.environ["OMP_NUM_THREADS"] = str(num_cores())


def _folders(groups: Path, mount: Path) -> Iterator[Path]:
    """Folders of the process's cgroups and of all their parents that are visible here."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            tops = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mount / controllers, mount / "cpu", mount / "cpu,cpuacct"]
        else:
            continue
        inner = Path(path.strip("/"))
        for top in tops:  # in a container, its own cgroup may be the mount point itself, regardless of the path
            yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _group_quota(folder: Path) -> float | None:
    """The quota of one cgroup in cores: ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` of version 1."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None
    return cores if cores > 0 else None
