"""How far something has come, on a terminal, in a file, and not at all."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse import progress
from undiffuse.cli import terminal
from undiffuse.cli.terminal import TrainingView, progress_bar
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import FlowProcess
from undiffuse.data import FolderConfig, load_dataset
from undiffuse.diagnostics import DATA_CHECKS
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding, examine
from undiffuse.experiments.trainings import Parts
from undiffuse.observer import OnProgress, observing
from undiffuse.progress import Estimate, ProgressLine, status
from undiffuse.samplers.inversion import generate, invert
from undiffuse.samplers.likelihood import log_likelihood
from undiffuse.training.config import PosthocConfig
from undiffuse.training.posthoc import PowerAverages, reconstruct, save_snapshot


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_is_left_follows_from_what_was_done() -> None:
    estimate = Estimate()
    assert estimate.left(20, 100, now=0) is None  # done before: a run that goes on
    assert estimate.left(40, 100, now=10) == 30
    assert estimate.left(0, 50, now=20) is None  # the next piece of work
    assert status(3, 8, 75) == "3 of 8  1 min 15 s left" and status(0.42, 1, None) == "42%"


def message(to: io.StringIO, clock: list[float], shown: bool | None = None) -> str:
    """What a minute of work that is said of each second writes."""
    with ProgressLine("encoding", shown, to) as counter:
        for second in range(65):
            clock[0] += 1
            counter.progress(second + 1, 100)
    return to.getvalue()


def test_a_terminal_gets_one_line_that_is_cleared(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    text = message(Terminal(), clock)
    assert "\n" not in text and text.endswith(" \r") and "65 of 100  35 s left" in text
    assert "1 of 100" not in text.split("\r")[1]  # patience


def test_a_file_gets_a_line_now_and_then(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    lines = message(io.StringIO(), clock).splitlines()
    assert lines == ["encoding  30 of 100  1 min 10 s left", "encoding  60 of 100  40 s left"]


def test_it_can_be_turned_off(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert message(Terminal(), clock, shown=False) == ""
    for word in ("off", "OFF", "0"):
        monkeypatch.setenv(progress.VARIABLE, word)
        assert message(Terminal(), clock) == ""


def test_work_within_work_is_not_shown_twice(clock: list[float]) -> None:
    outer, inner = Terminal(), Terminal()
    with ProgressLine("evaluating", True, outer):
        assert message(inner, clock, shown=True) == ""
    assert message(inner, clock, shown=True) != ""


def test_who_does_not_listen_any_more_stops_nothing(clock: list[float]) -> None:
    class Missing(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert message(Missing(), clock, shown=True) == ""


def test_commands_count_on_standard_error(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    with progress_bar("encoding") as counter:
        for second in range(35):
            clock[0] += 1
            counter.progress(second, 70)
    printed = capsys.readouterr()
    assert printed.out == "" and "left" in printed.err


def test_a_slow_training_shows_that_it_goes_on(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    with TrainingView(1000) as view:
        for step in range(1, 130):
            clock[0] += 1
            view.progress(2 * step, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "120 images" in lines[0] and "2 images/s" in lines[0] and "7 min 20 s left" in lines[0]


@pytest.mark.parametrize("num_steps", [None, 7])
def test_solvers_report_the_share_of_the_log_snr(num_steps: int | None) -> None:
    data = GaussianMixture.ring(4)
    denoiser, x_0 = data.denoiser(FlowProcess()), data.sample(3, torch.Generator().manual_seed(0))
    there: list[float] = []
    back: list[float] = []
    latents = invert(denoiser, x_0, num_steps=num_steps, on_progress=there.append).x
    generate(denoiser, latents, num_steps=num_steps, on_progress=back.append)
    density: list[float] = []
    log_likelihood(denoiser, x_0, num_steps=num_steps, on_progress=density.append)
    for shares in (there, back, density):
        assert len(shares) > 3 and shares == sorted(shares) and 0 <= shares[0] < 0.5 and shares[-1] == 1


def test_data_that_are_decoded_report_how_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        Image.fromarray(np.full((8, 8 + number % 2), number, np.uint8)).save(tmp_path / f"{number}.png")
    for name, value in (("_DELAY", 0.0), ("_INTERVAL", 0.0)):
        monkeypatch.setattr(progress, name, value)
    monkeypatch.delenv(progress.VARIABLE)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    load_dataset(FolderConfig(path=str(tmp_path)))
    assert f"reading headers of {tmp_path.name}" in terminal.getvalue()
    assert re.search(rf"decoding {tmp_path.name} .* 11 of 12", terminal.getvalue())


def test_an_average_of_snapshots_reports_how_many_are_read(tmp_path: Path) -> None:
    averages = PowerAverages(torch.nn.Linear(2, 2), PosthocConfig())
    for images in (100, 200):
        save_snapshot(tmp_path, averages, images)
    message: list[tuple[float, float]] = []
    reconstruct(
        tmp_path, PosthocConfig().sigma_rel, 0.1, OnProgress(lambda done, total, part: message.append((done, total)))
    )
    assert message == [(0, 2), (1, 2)]


def test_what_a_check_of_the_doctor_reports_counts_as_a_part_of_it() -> None:
    def slow(subject: SimpleNamespace) -> list[Finding]:
        for number in range(4):
            subject.observer.progress(number, 4)
        return []

    message: list[float] = []
    examine(
        {"quick": lambda subject: [], "slow": slow},
        SimpleNamespace(),
        OnProgress(lambda done, total, part: message.append(done)),
    )
    assert message == [0, 1, 1, 1.25, 1.5, 1.75, 2]


def test_what_is_loaded_within_a_check_of_the_doctor_counts_as_a_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Right values: each of two errands takes half of what is left, and the check's own work all that they leave."""

    def loads(subject: SimpleNamespace) -> list[Finding]:
        for what in ("listing", "decoding"):
            with ProgressLine(what) as counter:
                for number in range(1, 3):
                    counter.progress(number, 2)
        subject.observer.progress(1, 2)
        return []

    message: list[tuple[float, str]] = []
    listener = OnProgress(lambda done, total, part: message.append((done, part)))
    examine({"quick": lambda subject: [], "loads": loads}, SimpleNamespace(), listener)
    listed = [(1.25, "listing"), (1.5, "listing"), (1.625, "decoding"), (1.75, "decoding")]
    assert message == [(0, ""), (1, ""), *listed, (1.875, ""), (2, "")]
    assert capsys.readouterr().err == ""


def test_the_doctor_reports_of_the_images_that_it_decodes(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 10, 200)).save(tmp_path / f"{number}.png")
    parts: list[str] = []
    examine(
        DATA_CHECKS,
        DataContext(str(tmp_path), FolderConfig(path=str(tmp_path))),
        OnProgress(lambda done, total, part: parts.append(part)),
    )
    assert {f"reading headers of {tmp_path.name}", f"decoding {tmp_path.name}"} <= set(parts)


def test_a_study_that_trains_reports_how_long_all_that_are_left_will_take(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    parts = Parts("training", 4)
    with observing(terminal.Terminal()):
        for words, seconds in (("there already", 0.1), ("plain", 60), ("augmented", 30), ("both", 1)):
            parts.begin(words)
            clock[0] += seconds
    assert capsys.readouterr().out.splitlines() == [
        "training 1 of 4: there already",
        "training 2 of 4: plain",
        "training 3 of 4: augmented (remaining: about 2 min 0 s)",
        "training 4 of 4: both (remaining: about 45 s)",
    ]
