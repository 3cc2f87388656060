"""How many cores this process may use: what the machine has, less what was taken away. Any room may import this module.

A container's share of the processor (``docker run --cpus=2``) is a quota of its control group and changes neither the
machine's number of cores nor the process's affinity; whoever starts a thread for each core is stopped for most of each
period once the quota is spent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: Variables by which a user says how many threads there are to be.
USER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def allowed_cores() -> int:
    """Cores that the process may run on, by its affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_cores() -> int:
    """Cores that the process may keep busy: those of its affinity, or fewer by a quota; at least 1.

    A quota of one and a half cores counts as one: threads that wait for each other are as fast as the slowest.
    """
    allowed = allowed_cores()
    share = quota()
    return allowed if share is None else max(1, min(allowed, int(share + 1e-6)))


def quota(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float | None:
    """Cores' worth of time that the process's control groups leave it; None where none of them limits it.

    Args:
        groups: of the process, as Linux lists them, versions 1 and 2 of control groups alike.
        mount: where their files are.
    """
    shares = [share for folder in _folders(groups, mount) if (share := _share(folder)) is not None]
    return min(shares, default=None)


def limit_threads() -> None:
    """Tell the libraries that come in later how many threads a quota leaves, where the user did not say.

    They count the cores of the process's affinity by themselves. To be called before torch is imported.
    """
    if not any(name in os.environ for name in USER_VARIABLES) and num_cores() < allowed_cores():
        os.environ["OMP_NUM_THREADS"] = str(num_cores())


def _folders(groups: Path, mount: Path) -> Iterator[Path]:
    """Folders of the process's groups and of all above them, as far as they can be seen from here."""
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
        for top in tops:  # a container may see its own group as the mount itself, whatever the path says
            yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _share(folder: Path) -> float | None:
    """A group's own quota in cores: ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` of version 1."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None
    return share if share > 0 else None
