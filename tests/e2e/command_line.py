"""Calling the command line from tests: in this process, or in a child that may be killed."""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from undiffuse.api.sealing import accept_edits
from undiffuse.api.training import split_data
from undiffuse.cli.main import main
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

#: A network and a run small enough for a test.
TINY = (
    "system.network.channels=8",
    "num_images=256",
    "batch_images=16",
    "log_every_images=32",
    "validate_every_images=128",
    "validation_images=32",
    "preview_every_images=0",
    "quality_every_images=0",
    "checkpoint_every_images=32",
)


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line did."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


class CommandLine:
    """Calls ``undiffuse`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        out, err = self.capsys.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)

    def fine(self, *arguments: object) -> Outcome:
        """A call that must succeed."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def rejected(self, *arguments: object, code: int = 2) -> str:
        """A call that must be refused with one line, which is returned."""
        outcome = self(*arguments)
        assert outcome.code == code, outcome
        return outcome.complaint


def child(log: Path, *arguments: object) -> BaseProcess:
    """``undiffuse`` started in a process of its own, its output in ``log``.

    The processes are forked from a server that has imported torch already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["undiffuse.cli.main", "undiffuse.api.training", "sklearn.datasets", "torch._dynamo"]
    )
    process = context.Process(target=_run_child, args=(str(log), list(map(str, arguments))))
    process.start()
    return process


def _run_child(log: str, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    with Path(log).open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        main(arguments)


def change_config(folder: Path, record: dict[str, Any]) -> None:
    """Write another ``config.json`` into a run or a model folder, and say that it is meant."""
    (folder / "config.json").write_text(json.dumps(record))
    accept_edits(folder)


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("images_*"))


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizer state of a run's last checkpoint."""
    return load_file(last_checkpoint(run) / "state.safetensors")


def log_rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("wall", "crc32")} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit the same training state, model and metrics log."""
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert log_rows_of(one) == log_rows_of(other)


def no_leftovers(folder: Path) -> bool:
    """No temporary file or folder is left anywhere under ``folder``."""
    return not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def trainer_of(config: RunConfig, folder: Path) -> Trainer:
    return Trainer(config, *split_data(config), folder)


def run_until(config: RunConfig, folder: Path, images: int) -> None:
    """Stop as a signal does, after so many images in all."""
    trainer = trainer_of(config, folder)
    trainer.resume()
    one_step = trainer._one_step

    def one_step_and_look() -> None:
        one_step()
        if trainer.images >= images:
            trainer.request_stop()

    trainer._one_step = one_step_and_look  # type: ignore[method-assign]
    trainer.run()
