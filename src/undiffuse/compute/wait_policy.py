"""Wait policy of OpenMP threads: spin-wait on an idle machine, passive waiting while other processes use the cores.

OpenMP threads share the work of an operation and synchronise at its end. libgomp spins for milliseconds before it
blocks, which is optimal if every thread has a core: waking blocked threads costs a tenth of a small network's training.
If other processes use the cores, spinning threads take CPU time from the threads that they wait for: training fell to
less than a tenth of its fair share. The load can change during a run, but libgomp reads its settings only once, when it
is loaded.

However, if a process has more OpenMP threads than cores, libgomp spins for 100 iterations instead of 300,000. While
other processes compute, this module therefore keeps extra, blocked OpenMP threads alive; they end when the machine is
idle again. The division of operations among threads does not change, so results are bitwise identical (ADR 0047).

Source: the manual of libgomp, "GOMP_SPINCOUNT".
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch

from undiffuse.compute.backend import backend
from undiffuse.cores import allowed_cores, quota
from undiffuse.observer import BETWEEN_STEPS

#: Environment variables with which a user sets the wait policy.
USER_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
#: Interval of load measurements in seconds; the machine is shared if other processes use at least ``_OTHERS`` cores and
#: at most the fraction ``_IDLE`` of the cores is idle.
_SECONDS, _OTHERS, _IDLE = 0.5, 0.25, 0.25
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_STAT = Path("/proc/stat")


class CPUTime(NamedTuple):
    """Monotonic clock, busy and idle seconds of all allowed cores, and CPU seconds of this process."""

    clock: float
    busy: float
    idle: float
    own: float


class CPULoad(NamedTuple):
    """Average number of allowed cores that other processes used, and that were idle, over an interval."""

    others: float
    idle: float

    @property
    def shared(self) -> bool:
        """Whether other processes compete for the cores of this process."""
        return self.others >= _OTHERS and self.idle <= _IDLE * allowed_cores()


def cpu_time(stat: Path = _STAT) -> CPUTime | None:
    """CPU times from ``/proc/stat``; None if they are not available."""
    try:
        lines = stat.read_text().splitlines()
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [[int(number) for number in line.split()[1:]] for line in lines if line.split(" ", 1)[0] in allowed]
    except (OSError, ValueError, AttributeError):
        return None
    idle = sum(row[3] + row[4] for row in rows)
    busy = sum(sum(row[:8]) for row in rows) - idle
    return CPUTime(time.monotonic(), busy / _TICKS, idle / _TICKS, time.process_time())


def load_between(before: CPUTime, after: CPUTime) -> CPULoad:
    """The load between two measurements."""
    seconds = max(after.clock - before.clock, 1e-9)
    others = after.busy - before.busy - (after.own - before.own)
    return CPULoad(max(others, 0.0) / seconds, max(after.idle - before.idle, 0.0) / seconds)


class _WaitPolicy:
    """Measured load of the machine, and the thread that holds the extra OpenMP threads."""

    def __init__(self) -> None:
        self.lock, self.process = threading.Lock(), os.getpid()
        self.before, self.next = cpu_time(), 0.0
        self.holder: threading.Event | None = None
        self.busy = False

    def update(self) -> None:
        now = time.monotonic()
        if now < self.next or not self.lock.acquire(blocking=False):
            return
        try:
            first, self.next = not self.next, now + _SECONDS
            passive = self._wanted(first)
            if passive is not None and passive != (self.holder is not None):
                self._sleep() if passive else self._wake()
        finally:
            self.lock.release()

    def _wanted(self, first: bool) -> bool | None:
        """Whether threads should wait passively; None to keep the current policy."""
        option = backend().waiting
        if any(name in os.environ for name in USER_VARIABLES) or torch.get_num_threads() < 2:
            self.busy = False  # an earlier measurement with more threads is outdated
            return None
        if option != "auto":
            return option == "sleep"
        if (limit := quota()) is not None and limit <= torch.get_num_threads():
            return True  # spinning would use up the CPU quota
        if first:
            return True if _pressed() else None
        after = cpu_time()
        if self.before is None or after is None or after.clock - self.before.clock < _SECONDS / 2:
            return None
        load, self.before = load_between(self.before, after), after
        self.busy = load.shared
        return load.shared

    def _sleep(self) -> None:
        if (parallel := _parallel()) is None:
            return
        extra = max(2, allowed_cores() + 2 - torch.get_num_threads())
        self.holder = threading.Event()
        threading.Thread(target=_hold, args=(parallel, extra, self.holder), name="waiting", daemon=True).start()

    def _wake(self) -> None:
        if self.holder is not None:
            self.holder.set()
        self.holder = None


_STATE: list[_WaitPolicy] = []


def update() -> None:
    """Update the wait policy from the load, at most once per interval; called between steps."""
    if not _STATE or _STATE[0].process != os.getpid():  # a forked process has no holder and no OpenMP threads
        _STATE[:] = [_WaitPolicy()]
    _STATE[0].update()


def asleep() -> bool:
    """Whether this module currently makes threads wait passively."""
    return bool(_STATE) and _STATE[0].holder is not None


def busy() -> bool:
    """Whether other processes competed for the cores at the last measurement."""
    return bool(_STATE) and _STATE[0].busy


def _pressed() -> bool:
    """Whether tasks waited for a core more than 10% of the last ten seconds (pressure stall information)."""
    try:
        line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
        return float(dict(part.split("=") for part in line.split()[1:])["avg10"]) > 10
    except (OSError, ValueError, KeyError, IndexError):
        return False


def _parallel() -> ctypes._NamedFuncPointer | None:
    """libgomp's function that starts a team of threads; None if another OpenMP library is in use."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "GOMP_parallel") or hasattr(library, "kmp_set_blocktime"):
        return None
    parallel = library.GOMP_parallel
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


def _hold(parallel: ctypes._NamedFuncPointer, threads: int, released: threading.Event) -> None:
    """Keep ``threads`` idle OpenMP threads alive until the event is set."""
    no_op = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL)
    parallel(no_op, None, threads, 0)
    released.wait()  # the team lives as long as the thread that started it


BETWEEN_STEPS.append(update)
