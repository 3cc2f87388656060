"""One process at a time writes to a place; what a dead one leaves is removed, and nothing else."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from undiffuse import leftovers, locking
from undiffuse.errors import UsageError
from undiffuse.files import replacing, write_text
from undiffuse.leftovers import remove_leftovers, temporary_next_to
from undiffuse.locking import HeldError, locked, new_folder

if not hasattr(os, "fork"):
    pytest.skip("needs a system that forks", allow_module_level=True)


@contextmanager
def process_that(holds: Path, *, with_child: bool = False) -> Iterator[int]:
    """A forked process that holds a claim, and may have forked one itself that lives on; gives its number."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        with locked(holds):
            child = os.fork() if with_child else 1
            os.write(writer, b"x" if child else b"")
            time.sleep(20)
        os._exit(0)
    os.read(reader, 1)
    try:
        yield process
    finally:
        kill(process)


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def dead_number() -> int:
    """Of a process that was and is no more."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def named(path: Path, process: int, host: str | None = None) -> Path:
    """The temporary of ``path`` that a process would write."""
    return path.with_name(f".{path.name}.{process}-1@{host or leftovers._host()}.tmp")


def test_the_second_is_reported_who_is_there_until_that_one_dies(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "x"
    with process_that(place) as process:
        with pytest.raises(HeldError) as message, locked(place):
            pass
        line, since = str(message.value).split(", since ")
        assert line == f"{place} is being written by process {process} on {socket.gethostname()}"
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait", since) and message.value.exit_code == 2
        kill(process)
        with locked(place):
            assert [path.name for path in place.parent.iterdir()] == [".x.lock"]
    assert not list(place.parent.iterdir())


def test_a_forked_process_that_lives_on_does_not_hold_it(tmp_path: Path) -> None:
    with process_that(tmp_path / "x", with_child=True) as process:
        kill(process)
        with locked(tmp_path / "x") as guarded:
            assert guarded


def test_a_fork_does_not_take_its_parents_claim_for_its_own(tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        process = os.fork()
        if process == 0:
            try:
                with locked(tmp_path / "x"):
                    os._exit(1)
            except HeldError:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        assert (tmp_path / ".x.lock").exists()


def test_threads_are_reported_too_and_one_may_claim_again(tmp_path: Path) -> None:
    def other() -> None:
        with locked(tmp_path / "x"):
            pass

    with locked(tmp_path / "x"), ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "x"), locked(None):
            pass
        with pytest.raises(HeldError, match="another thread of this process, since"):
            pool.submit(other).result()
    other()


def test_folders_are_numbered_one_by_one_however_many_come_at_once(tmp_path: Path) -> None:
    def take(number: int) -> str:
        with new_folder(tmp_path / "samples", "mnist") as folder:
            time.sleep(0.01)
            (folder / "grid.png").write_text(str(number))
            return folder.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(take, range(24)))
    assert sorted(names) == [f"mnist-{number:03d}" for number in range(1, 25)]
    assert [int((tmp_path / "samples" / name / "grid.png").read_text()) for name in names] == list(range(24))


def test_a_folder_that_a_killed_process_left_empty_is_taken_and_another_is_passed(tmp_path: Path) -> None:
    (tmp_path / "x-001").mkdir()
    (tmp_path / "x-001" / "config.json").write_text("{}")
    (tmp_path / "x-002").mkdir()
    left = named(tmp_path / "x-002", dead_number())
    left.mkdir()
    with new_folder(tmp_path, "x") as folder, new_folder(tmp_path, "x") as other:
        assert (folder.name, other.name) == ("x-002", "x-003") and not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x-001"]  # both stayed empty


def test_two_processes_that_draw_numbers_get_two(tmp_path: Path) -> None:
    with new_folder(tmp_path, "x") as ours:
        process = os.fork()
        if process == 0:
            with new_folder(tmp_path, "x") as folder:
                os._exit(int(folder.name[-3:]))
        assert ours.name == "x-001" and os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2


@pytest.mark.parametrize("why", ["no module", errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_one_line_reports_so_and_folders_are_still_one_each(
    why: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reject(descriptor: int, how: int) -> None:
        raise OSError(why, "no locks")

    if why == "no module":
        monkeypatch.setattr(locking, "_fcntl", lambda: None)
    else:
        monkeypatch.setattr(fcntl, "lockf", reject)
    with caplog.at_level(logging.WARNING), new_folder(tmp_path, "x") as folder, new_folder(tmp_path, "x") as other:
        assert (folder.name, other.name) == ("x-001", "x-002")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x-001", "x-002"]
    assert len(caplog.records) == 2 and "no file locks on this system" in caplog.text


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".x.json.lock").symlink_to(tmp_path / "precious")
    expected = r"cannot write .*x\.json: a symbolic link is where"
    with pytest.raises(UsageError, match=expected), locked(tmp_path / "x.json"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_folder_in_a_place_that_cannot_be_written_to_holds_its_lock_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    (tmp_path / "mount").mkdir()
    with locked(tmp_path / "mount"):
        assert [path.name for path in (tmp_path / "mount").iterdir()] == [".lock"]
    assert not list((tmp_path / "mount").iterdir())


def test_a_leftover_is_removed_only_of_a_process_that_is_no_more(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    snapshots = run / "snapshots"
    for folder in (snapshots, outside):
        folder.mkdir(parents=True)
    (run / "linked").symlink_to(outside)
    dead, living = dead_number(), os.getppid()
    missing = [
        named(snapshots / "a", dead),
        run / f".b.{dead}.tmp",
        run / f".c.{dead}-7.old.tmp",
        named(run / "d", living),
    ]
    old_elsewhere = named(run / "e", dead, "00000000")
    kept = [
        named(run / "f", living),
        named(run / "g", dead, "00000000"),
        named(outside / "h", dead),
        run / ".notes.tmp",
    ]
    (run / "c").mkdir()  # so that what was moved aside has its place taken
    for path in [*missing, old_elsewhere, *kept]:
        path.mkdir()
    os.utime(named(run / "d", living), (1e9, 1e9))  # from before the process began: its number was another's
    os.utime(old_elsewhere, (time.time() - 90_000,) * 2)
    remove_leftovers(run)
    assert [path.name for path in [*missing, old_elsewhere] if path.exists()] == []
    assert [path.name for path in kept if not path.exists()] == []


def test_what_was_moved_aside_is_put_back_where_its_place_stayed_empty(tmp_path: Path) -> None:
    aside = tmp_path / f".samples.{dead_number()}-1.old.tmp"
    aside.mkdir()
    (aside / "grid.png").write_text("kept")
    with locked(tmp_path / "samples"):
        assert (tmp_path / "samples" / "grid.png").read_text() == "kept" and not aside.exists()


def test_own_temporaries_are_no_leftovers(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("x")
        remove_leftovers(tmp_path)
        assert temporary == temporary_next_to(tmp_path / "x") and temporary.exists()


def test_a_link_to_a_file_gives_way_and_one_to_a_folder_is_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("elsewhere", "run"):
        (tmp_path / name).mkdir()
    precious, page = tmp_path / "elsewhere" / "precious", tmp_path / "run" / "report.html"
    precious.write_text("kept")
    page.symlink_to(precious)
    with locked(page):
        assert [path.name for path in precious.parent.iterdir()] == ["precious"]
        write_text(page, "<html>")
    assert precious.read_text() == "kept" and page.read_text() == "<html>" and not page.is_symlink()
    assert "report.html was a link to " in caplog.text
    (tmp_path / "samples").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "samples") as temporary:
        temporary.mkdir()
        (temporary / "grid.png").touch()
    assert (tmp_path / "samples").is_symlink() and [path.name for path in (tmp_path / "elsewhere").iterdir()] == [
        "grid.png"
    ]
