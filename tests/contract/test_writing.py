"""What the operating system refuses becomes one line that says what to do; writers at once do not meet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from undiffuse.errors import UsageError
from undiffuse.files import replacing, write_json


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc, in which nothing can be made")
@pytest.mark.parametrize("name", ["/proc/x.json", "/proc/no/x.json"])
def test_a_place_where_nothing_can_be_created(name: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot write {name}: .*; choose another path$"):
        write_json(Path(name), {})


def test_a_folder_that_went_away_meanwhile(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "runs" / "x.json") as temporary:
            temporary.parent.rmdir()
            temporary.write_text("{}")

    with pytest.raises(UsageError, match=r"cannot write .*x\.json: no file can be created there"):
        write()


def test_what_is_missing_elsewhere_is_not_reported_of_the_place_written_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out" / "x.json") as temporary:
        temporary.write_bytes((tmp_path / "in" / "missing.json").read_bytes())
    assert not list((tmp_path / "out").iterdir())


def test_two_threads_that_write_one_file_each_leave_it_whole(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def write(text: str) -> None:
        with replacing(tmp_path / "x.txt") as temporary:
            both.wait()
            temporary.write_text(text)
            both.wait()
            assert temporary.read_text() == text

    texts = ["a" * 1000, "b" * 2000]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, texts))
    assert (tmp_path / "x.txt").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
