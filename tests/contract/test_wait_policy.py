"""Threads sleep while other processes compute and spin otherwise; quotas of cores are kept to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from undiffuse import cores
from undiffuse.compute import wait_policy
from undiffuse.compute.threaded_batch import run_parallel
from undiffuse.compute.wait_policy import CPULoad, CPUTime, cpu_time, load_between


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in wait_policy.USER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wait_policy, "_SECONDS", 0.0)
    monkeypatch.setattr(wait_policy, "_STATE", [])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "waiting=spin")
    wait_policy.update()
    torch.set_num_threads(before)


def settled(count: int) -> bool:
    """Whether the process comes to have so many threads."""
    deadline = time.monotonic() + 10
    while threads_of_this_process() != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads_of_this_process() == count


@pytest.mark.skipif(wait_policy._parallel() is None, reason="operations are not divided by GNU's OpenMP")
def test_they_sleep_and_wake_and_no_bit_changes(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))

    def results() -> list[torch.Tensor]:
        return [x.sum(), x.norm(), torch.nn.functional.silu(x), *run_parallel([x.mean, x.std])]

    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "waiting=spin")
    awake, count = results(), threads_of_this_process()
    assert not wait_policy.asleep()
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "waiting=sleep")
    sleeping = results()
    assert wait_policy.asleep() and settled(count + max(2, cores.allowed_cores()))
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "waiting=spin")
    again = results()
    assert not wait_policy.asleep() and settled(count)
    assert torch.get_num_threads() == 2
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(awake, sleeping, again, strict=True))


@pytest.mark.parametrize("name", wait_policy.USER_VARIABLES)
def test_the_users_own_setting_stays(name: str, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "waiting=sleep")
    wait_policy.update()
    assert not wait_policy.asleep()


def test_one_thread_forgets_what_two_have_seen(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDIFFUSE_COMPUTE", raising=False)
    wait_policy.update()
    wait_policy._STATE[0].busy = True
    torch.set_num_threads(1)
    wait_policy.update()
    assert not wait_policy.busy()


def test_it_follows_the_load(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDIFFUSE_COMPUTE", raising=False)
    monkeypatch.setattr(wait_policy, "_pressed", lambda: False)
    monkeypatch.setattr(wait_policy, "_parallel", lambda: None)  # what would be done is not of interest
    monkeypatch.setattr(wait_policy, "allowed_cores", lambda: 2)
    monkeypatch.setattr(wait_policy, "quota", lambda: None)
    times = [CPUTime(0, 0, 0, 0), CPUTime(1, 2, 0, 1), CPUTime(2, 4, 0, 3)]  # others had one core, then none
    readings = chain(times, repeat(times[-1]))
    monkeypatch.setattr(wait_policy, "cpu_time", lambda: next(readings))
    state = wait_policy._WaitPolicy()
    assert state._wanted(True) is None
    assert state._wanted(False) is True
    assert state._wanted(False) is False
    monkeypatch.setattr(wait_policy, "_pressed", lambda: True)
    assert state._wanted(True) is True
    monkeypatch.setattr(wait_policy, "quota", lambda: 2.0)
    assert state._wanted(False) is True


def test_the_load_is_what_others_do_on_the_cores_of_this_process(tmp_path: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    stat = tmp_path / "stat"

    def write(busy: int, idle: int) -> None:
        rows = [f"cpu{number} {busy} 0 0 {idle} 0 0 0 0 0 0" for number in mine]
        stat.write_text("\n".join(["cpu 9 9 9 9 9 9 9 9 9 9", *rows, "cpu999 700000 0 0 0 0 0 0 0 0 0", "intr 5"]))

    write(100, 50)
    first = cpu_time(stat)
    write(300, 60)
    last = cpu_time(stat)
    assert first is not None and last is not None
    assert last.busy - first.busy == pytest.approx(2 * len(mine)) and last.idle - first.idle == pytest.approx(
        0.1 * len(mine)
    )
    assert load_between(CPUTime(0, 0, 0, 0), CPUTime(2, 3, 1, 1)) == CPULoad(others=1, idle=0.5)
    assert cpu_time(tmp_path / "nothing") is None


@pytest.mark.parametrize(("others", "idle", "shared"), [(1, 0, True), (0.1, 0, False), (1, 1, False), (2, 0.3, True)])
def test_what_is_called_shared(others: float, idle: float, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_policy, "allowed_cores", lambda: 2)
    assert CPULoad(others, idle).shared is shared


def cgroup(folder: Path, listing: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A process's list of groups and their mount, with these files."""
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "groups").write_text(listing)
    return folder / "groups", folder / "mount"


V1 = "4:memory:/x\n1:cpu,cpuacct:/docker/abc\n0::/\n"
GROUPS = {
    "version 2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "version 2, nested": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
    "version 2, the least of several": ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3),
    "version 1": (
        V1,
        {
            "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
            "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "version 1, seen from inside": (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
    "version 1, no limit": (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    "both": (V1, {"unified/cpu.max": "100000 100000"}, 1.0),
    "nothing to be read": (V1, {}, None),
    "nonsense": ("what is this\n\n", {"cpu.max": "many"}, None),
}


@pytest.mark.parametrize("what", GROUPS)
def test_quotas_of_control_groups(what: str, tmp_path: Path) -> None:
    listing, files, expected = GROUPS[what]
    assert cores.quota(*cgroup(tmp_path, listing, files)) == expected
    assert cores.quota(tmp_path / "nowhere", tmp_path) is None


CORES = [(64, 2.0, 2), (64, None, 64), (2, 8.0, 2), (4, 1.5, 1), (4, 0.2, 1)]


@pytest.mark.parametrize(("allowed", "quota", "expected"), CORES)
def test_cores_and_what_libraries_are_given(
    allowed: int, quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "allowed_cores", lambda: allowed)
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.num_cores() == expected
    for name in cores.USER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    cores.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == (str(expected) if expected < allowed else None)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cores.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"
