"""What a dry run says of the cost, on a hardware whose clock is ours."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from undiffuse.compute.wait_policy import CPULoad
from undiffuse.training import cost
from undiffuse.training.cost import Cost, measured_cost


class Hardware:
    """A trainer on two equal cores: a call costs ``call`` seconds, each image ``image``, a move ``move``."""

    def __init__(
        self, batch: int, micro_batch: int, *, call: float, image: float, move: float, late: float = 1
    ) -> None:
        self.config = SimpleNamespace(batch_images=batch, num_micro_batches=batch // micro_batch)
        self.device = torch.device("cpu")
        self.call, self.image, self.move, self.late = call, image, move, late
        self.clock = self.processor = 0.0
        self.calls: list[str] = []

    def trial_micro_batch(self, size: int) -> None:
        self._spend(self.call + self.image * size, f"micro {size}")

    def trial_update(self) -> None:
        self._spend(self.move, "move")

    def trial_step(self) -> None:
        count = self.config.num_micro_batches
        seconds = count * (self.call + self.image * self.config.batch_images / count) + self.move
        self._spend(seconds, "step")

    def _spend(self, seconds: float, what: str) -> None:
        self.processor += 2 * seconds
        self.clock += seconds * self.late
        self.calls.append(what)


def measured(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> Cost:
    monkeypatch.setattr(time, "process_time", lambda: hardware.processor)
    monkeypatch.setattr(time, "perf_counter", lambda: hardware.clock)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found: Any = measured_cost(hardware)  # type: ignore[arg-type]
    return found  # type: ignore[no-any-return]


def test_whole_steps_where_they_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(128, 128, call=0.2, image=0.001, move=0.05)
    found = measured(hardware, monkeypatch)
    assert found.of_images(128) == pytest.approx(0.2 + 0.128 + 0.05)  # one image times 128 would be 25.7 s
    assert found.spread(128) == pytest.approx((0.378, 0.378)) and found.alone(128) == pytest.approx(0.378)
    assert hardware.calls.count("step") == len(found.seconds) + 1 and "steps of 128 images" in found.measured


def test_micro_batches_and_the_optimizer_where_a_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(128, 16, call=0.4, image=0.05, move=0.3)
    found = measured(hardware, monkeypatch)
    assert found.of_images(128) == pytest.approx(8 * (0.4 + 0.8) + 0.3)
    assert "micro-batches of 16 images, 8 to a step" in found.measured and "step" not in hardware.calls


def test_as_many_images_as_do_not_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(64, 64, call=0.2, image=1.0, move=0.5)
    found = measured(hardware, monkeypatch)
    assert found.of_images(64) == pytest.approx(64 * (0.2 + 4) / 4 + 0.5)
    assert "4 images of the 64" in found.measured and max(map(hardware.calls.count, ("micro 16", "micro 64"))) == 0


def test_one_long_micro_batch_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(1, 1, call=500, image=0, move=1)
    found = measured(hardware, monkeypatch)
    assert len(found.seconds) == 1 and found.of_images(1) == pytest.approx(501)
    assert hardware.calls == ["micro 1", "micro 1", "move", "move"]


def test_the_measuring_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(32, 32, call=0.1, image=0.01, move=0.1)
    measured(hardware, monkeypatch)
    assert hardware.processor < 2 * cost._MAX_SECONDS


def test_a_busy_machine_costs_time_and_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(Hardware(8, 8, call=0.1, image=0.01, move=0.02, late=5), monkeypatch)
    assert found.of_images(8) == pytest.approx(5 * 0.2) and found.alone(8) == pytest.approx(0.2)


def test_a_dry_run_reports_that_the_machine_is_busy() -> None:
    from undiffuse.cli.tables import _busy

    seconds = (1.0, 3.0, 2.0)
    shared = Cost(seconds, 10, "3 steps", 1.0, 2, CPULoad(others=1.5, idle=0.0))
    (row,) = _busy(shared, 1000, "cpu")
    assert "other processes kept 1.5 of" in row[1] and "50 s" in row[1]
    assert _busy(Cost(seconds, 10, "3 steps", 1.0, 2, CPULoad(0.0, 1.0)), 1000, "cpu") == []
    assert _busy(Cost(seconds, 10, "3 steps", 1.0, 2, None), 1000, "cpu") == []
