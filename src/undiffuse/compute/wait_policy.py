"""The wait policy of OpenMP's threads: they spin on an idle machine and sleep while other processes compute.

OpenMP's threads divide an operation among them and wait at its end. GNU's library lets them spin for milliseconds
before they sleep, which is right where each has a core to itself: waking one up costs a tenth of a small network's
training. While other processes compute, the thread that is waited for does not run, and whoever spins takes its time
away: training fell to less than a tenth of its fair share. Which of the two holds can change while a run goes on, but
the library reads its settings once, when it is loaded.

It has a rule of its own, though: while a process has more OpenMP threads than cores, they spin a hundred rounds in
place of 300,000. So while others compute, a thread is kept here that holds some more of them, asleep; when the machine
is ours again, it ends. No operation is divided otherwise, so no bit of any result depends on it (ADR 0047).

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

#: Variables by which a user sets how threads wait.
USER_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
#: The machine is looked at so often, and is shared if others kept so much of a core busy and so little was left idle.
_SECONDS, _OTHERS, _IDLE = 0.5, 0.25, 0.25
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_STAT = Path("/proc/stat")


class CPUTime(NamedTuple):
    """Seconds so far of the clock, and of all cores that this process may run on: busy, idle, and busy with it."""

    clock: float
    busy: float
    idle: float
    own: float


class CPULoad(NamedTuple):
    """Cores, of those that this process may run on, that others kept busy and that stood idle over some time."""

    others: float
    idle: float

    @property
    def shared(self) -> bool:
        """Whether others want the cores that this process wants."""
        return self.others >= _OTHERS and self.idle <= _IDLE * allowed_cores()


def cpu_time(stat: Path = _STAT) -> CPUTime | None:
    """What the system counts; None where it does not."""
    try:
        lines = stat.read_text().splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [[int(number) for number in line.split()[1:]] for line in lines if line.split(" ", 1)[0] in mine]
    except (OSError, ValueError, AttributeError):
        return None
    idle = sum(row[3] + row[4] for row in rows)
    busy = sum(sum(row[:8]) for row in rows) - idle
    return CPUTime(time.monotonic(), busy / _TICKS, idle / _TICKS, time.process_time())


def load_between(before: CPUTime, after: CPUTime) -> CPULoad:
    """The load of the time between two readings."""
    seconds = max(after.clock - before.clock, 1e-9)
    others = after.busy - before.busy - (after.own - before.own)
    return CPULoad(max(others, 0.0) / seconds, max(after.idle - before.idle, 0.0) / seconds)


class _WaitPolicy:
    """What is known of the machine, and the thread that makes the others sleep."""

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
            asleep = self._wanted(first)
            if asleep is not None and asleep != (self.holder is not None):
                self._sleep() if asleep else self._wake()
        finally:
            self.lock.release()

    def _wanted(self, first: bool) -> bool | None:
        """Whether threads shall sleep while they wait; None to leave it as it is."""
        wanted = backend().waiting
        if any(name in os.environ for name in USER_VARIABLES) or torch.get_num_threads() < 2:
            self.busy = False  # what was seen before, by more threads, need not hold any more
            return None
        if wanted != "auto":
            return wanted == "sleep"
        if (share := quota()) is not None and share <= torch.get_num_threads():
            return True  # what is spun away is taken from the quota
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
        more = max(2, allowed_cores() + 2 - torch.get_num_threads())
        self.holder = threading.Event()
        threading.Thread(target=_hold, args=(parallel, more, self.holder), name="waiting", daemon=True).start()

    def _wake(self) -> None:
        if self.holder is not None:
            self.holder.set()
        self.holder = None


_STATE: list[_WaitPolicy] = []


def update() -> None:
    """Look at the machine, if that was not done lately, and let threads wait by what it does; called between work."""
    if not _STATE or _STATE[0].process != os.getpid():  # a fork has neither the thread nor OpenMP's
        _STATE[:] = [_WaitPolicy()]
    _STATE[0].update()


def asleep() -> bool:
    """Whether threads sleep while they wait, by what is done here."""
    return bool(_STATE) and _STATE[0].holder is not None


def busy() -> bool:
    """Whether others wanted the same cores when the machine was looked at last."""
    return bool(_STATE) and _STATE[0].busy


def _pressed() -> bool:
    """Whether someone has waited for a core a tenth of the last seconds, by the system's own account."""
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
        return float(dict(part.split("=") for part in some.split()[1:])["avg10"]) > 10
    except (OSError, ValueError, KeyError, IndexError):
        return False


def _parallel() -> ctypes._NamedFuncPointer | None:
    """GNU's way to start a team of threads; None where operations are divided by another library."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "GOMP_parallel") or hasattr(library, "kmp_set_blocktime"):
        return None
    parallel = library.GOMP_parallel
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


def _hold(parallel: ctypes._NamedFuncPointer, threads: int, released: threading.Event) -> None:
    """Hold so many OpenMP threads that do nothing, until the event is set."""
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL)
    parallel(nothing, None, threads, 0)
    released.wait()  # they live as long as the thread that began them


BETWEEN_STEPS.append(update)
