"""A reader that is gone and a signal are requests to stop: with a checkpoint, no traceback, and a code that says so."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY, CommandLine, last_checkpoint

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run
from undiffuse.cli import signals as stopping
from undiffuse.cli import terminal as show
from undiffuse.cli.main import main
from undiffuse.files import replacing


def missing_at(row: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From that row of the metrics log on, nobody is there to be shown it."""
    seen: list[int] = []

    def fail(view: show.TrainingView, kind: str, values: dict[str, Any]) -> None:
        seen.append(values["images"])
        if len(seen) >= row:
            raise OSError(number, "gone")

    monkeypatch.setattr(show.TrainingView, "row", fail)
    monkeypatch.setattr(stopping, "discard_closed_output", lambda: False)  # the streams of the test itself are there


def test_a_reader_that_is_removed_stops_the_training_with_a_checkpoint(
    tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        missing_at(2, errno.EPIPE, patch)
        line = undiffuse.rejected(
            "train", "ddpm-digits", *TINY, "num_images=96", "--out", tmp_path / "run", code=128 + 13
        )
    assert "stopped at 64 images with a checkpoint (the output pipe was closed)" in line
    assert last_checkpoint(tmp_path / "run").name == "images_000000000064"
    undiffuse.fine(*line.split("resume with: undiffuse ")[1].split())
    assert last_checkpoint(tmp_path / "run").name == "images_000000000096"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_terminal_that_is_removed_without_a_signal_or_a_log_that_is_full_does_not(
    number: int, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing_at(1, number, monkeypatch)
    undiffuse.fine("train", "ddpm-digits", *TINY, "num_images=48", "--out", tmp_path / "run")
    assert last_checkpoint(tmp_path / "run").name == "images_000000000048"


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize("command", [["recipes"], ["--help"], ["train", "--none-such"]])
def test_a_command_whose_reader_is_removed_ends_in_silence(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-c", "from undiffuse.cli.main import main; main()", *command]
    try:
        rejected = command[0] == "train"  # by a complaint, which nobody reads either
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stderr" if rejected else "stdout": writer}
        ended = subprocess.run(program, **streams, check=False)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr or b"", ended.stdout or b"") == (2 if rejected else 141, b"", b"")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
@pytest.mark.parametrize("number", [15, 1])
def test_a_signal_ends_any_other_command_cleanly(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from undiffuse.cli import main as cli

    def long_work(rows: object) -> None:
        with replacing(tmp_path / "out.json") as temporary:
            temporary.write_text("{")
            os.kill(os.getpid(), number)
            threading.Event().wait(5)

    monkeypatch.setattr(cli, "list_rows", long_work)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        main(["recipes"])
    assert stop.value.code == 128 + number and not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "") and signal.getsignal(number) == before


def test_nohup_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda number: ignored.get(number, signal.SIG_DFL))
    assert list(stopping._termination_handlers(lambda number, frame: None)) == [signal.SIGTERM]


def test_a_training_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    config = configure("ddpm-digits", [*TINY, "num_images=16"], None, None, False)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train_run, config, tmp_path / "run", device="cpu").result()
