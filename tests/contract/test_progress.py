"""How far something has come, on a terminal, in a file, and not at all."""

from __future__ import annotations

import io
import time

import pytest
import torch

from undiffuse import progress
from undiffuse.app.show import TrainingView, counting
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import FlowProcess
from undiffuse.progress import Counter, Estimate, facts
from undiffuse.samplers.inversion import decode, encode
from undiffuse.samplers.likelihood import log_likelihood


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
    assert facts(3, 8, 75) == "3 of 8  1 min 15 s left" and facts(0.42, 1, None) == "42%"


def told(to: io.StringIO, clock: list[float], shown: bool | None = None) -> str:
    """What a minute of work that is told of each second writes."""
    with Counter("encoding", shown, to) as tell:
        for second in range(65):
            clock[0] += 1
            tell(second + 1, 100)
    return to.getvalue()


def test_a_terminal_gets_one_line_that_is_cleared(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    text = told(Terminal(), clock)
    assert "\n" not in text and text.endswith(" \r") and "65 of 100  35 s left" in text
    assert "1 of 100" not in text.split("\r")[1]  # patience


def test_a_file_gets_a_line_now_and_then(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    lines = told(io.StringIO(), clock).splitlines()
    assert lines == ["encoding  30 of 100  1 min 10 s left", "encoding  60 of 100  40 s left"]


def test_it_can_be_turned_off(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(Terminal(), clock, shown=False) == ""
    for word in ("off", "OFF", "0"):
        monkeypatch.setenv(progress.VARIABLE, word)
        assert told(Terminal(), clock) == ""


def test_work_within_work_is_not_shown_twice(clock: list[float]) -> None:
    outer, inner = Terminal(), Terminal()
    with Counter("evaluating", True, outer):
        assert told(inner, clock, shown=True) == ""
    assert told(inner, clock, shown=True) != ""


def test_who_does_not_listen_any_more_stops_nothing(clock: list[float]) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert told(Gone(), clock, shown=True) == ""


def test_commands_count_on_standard_error(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    with counting("encoding") as tell:
        for second in range(35):
            clock[0] += 1
            tell(second, 70)
    printed = capsys.readouterr()
    assert printed.out == "" and "left" in printed.err


def test_a_slow_training_shows_that_it_goes_on(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.VARIABLE)
    with TrainingView(1000) as view:
        for step in range(1, 130):
            clock[0] += 1
            view.step(2 * step)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "120 images" in lines[0] and "2 images/s" in lines[0] and "7 min 20 s left" in lines[0]


@pytest.mark.parametrize("num_steps", [None, 7])
def test_solvers_tell_the_share_of_the_log_snr(num_steps: int | None) -> None:
    data = GaussianMixture.ring(4)
    denoiser, x_0 = data.denoiser(FlowProcess()), data.sample(3, torch.Generator().manual_seed(0))
    there: list[float] = []
    back: list[float] = []
    latents = encode(denoiser, x_0, num_steps=num_steps, tell=there.append).x
    decode(denoiser, latents, num_steps=num_steps, tell=back.append)
    density: list[float] = []
    log_likelihood(denoiser, x_0, num_steps=num_steps, tell=density.append)
    for shares in (there, back, density):
        assert len(shares) > 3 and shares == sorted(shares) and 0 <= shares[0] < 0.5 and shares[-1] == 1
