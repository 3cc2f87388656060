"""Two commands at once: the second is said who writes there, or takes the next number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import TINY, CommandLine

from undiffuse.locking import locked, new_folder

HELD = "is being written by another thread of this process, since "


@contextmanager
def held_by_another(place: Path) -> Iterator[None]:
    """A claim of another thread, which is as good as another process."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(place):
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


COMMANDS = {
    "train": ("train", "ddpm-digits", *TINY, "--out", "OUT"),
    "resume": ("train", "--resume", "--out", "MODEL"),
    "distill": ("distill", "MODEL", "--method", "mean_flow", "--out", "OUT"),
    "demo": ("demo", "--out", "OUT"),
    "sample": ("sample", "MODEL", "-n", "1", "--out", "OUT"),
    "invert": ("invert", "MODEL", "digits", "-n", "1", "--out", "OUT"),
    "export": ("export", "MODEL", "--out", "OUT"),
    "evaluate": ("evaluate", "MODEL", "--metrics", "classes", "--num", "8", "--out", "OUT"),
    "compare": ("compare", "digits", "digits", "--num", "8", "--out", "OUT"),
    "report": ("report", "MODEL", "--out", "OUT"),
    "doctor": ("doctor", "MODEL", "--json", "OUT"),
    "prepare": ("data", "prepare", "digits", "--out", "OUT.zip"),
    "info": ("data", "info", "digits", "--grid", "OUT"),
    "get": ("data", "get", "mnist", "--out", "OUT"),
    "study": ("study", "noise-levels", "MODEL", "--out", "OUT"),
    "theory": ("study", "theory", "exact:rings", "--out", "OUT"),
    "parameterization": ("study", "parameterization", "--images", "16", "--num", "1", "--out", "OUT"),
    "one-class": ("study", "one-class", "--data", "digits", "--images", "16", "--num", "2", "--out", "OUT"),
    "small-data": ("study", "small-data", "--data", "digits", "--images", "8", "--epochs", "1", "--out", "OUT"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_another_writes_to_is_rejected_and_left_as_it_is(
    name: str, trained: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    words = {"MODEL": str(trained), "OUT": str(tmp_path / "out"), "OUT.zip": str(tmp_path / "out.zip")}
    command = [words.get(word, word) for word in COMMANDS[name]]
    place = Path(command[-1])
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    with held_by_another(place):
        line = undiffuse.rejected(*command)
        assert f"{place} {HELD}" in line and line.endswith("wait until it has ended, or choose another path")
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}.items() <= before.items()


def test_samples_go_into_the_next_folder_while_the_first_is_being_filled(
    trained: Path, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("samples"), "tiny"):
        assert "samples/tiny-002" in undiffuse.fine("sample", trained, "-n", "1", "--steps", "1").out
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["tiny-002"]
    assert "samples/tiny-001" in undiffuse.fine("sample", trained, "-n", "1", "--steps", "1").out


def test_a_folder_is_not_taken_by_what_cannot_start(
    trained: Path, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    undiffuse.rejected("sample", trained, "--sampler", "none-such")
    undiffuse.rejected("train", "ddpm-digits", "--data", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
