"""A finished run: what is said of it, and how it is trained for longer."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import CommandLine

_SMALL = (
    *("system.network.channels=8", "system.network.multipliers=[1]", "batch_images=16", "quality_every_images=0"),
    *(
        "preview_every_images=0",
        "validate_every_images=0",
        "optimizer.warmup_images=8",
        "ema.posthoc.snapshot_every_images=32",
    ),
)


@pytest.mark.parametrize("decay", ["constant", pytest.param("inverse_sqrt", marks=pytest.mark.slow)])
def test_a_rate_without_an_end_goes_on_as_if_it_had_been_requested_for_at_once(
    decay: str, undiffuse: CommandLine, tmp_path: Path
) -> None:
    train = ("train", "ddpm-digits", *_SMALL, f"optimizer.decay={decay}")
    undiffuse.fine(*train, "num_images=64", "--out", tmp_path / "short")
    undiffuse.fine(*train, "num_images=128", "--out", tmp_path / "long")
    output = undiffuse.fine("train", "--resume", "--out", tmp_path / "short").out
    assert "is finished, at 64 images" in output and "nothing was left to train" in output
    (printed,) = re.findall(r"for longer: undiffuse (.*)", output)
    assert printed.endswith("num_images=128")
    assert "num_images: 64 -> 128" in undiffuse.fine(*shlex.split(printed)).err
    for name in ("model.safetensors", "raw.safetensors"):
        short, whole = ((tmp_path / run / name).read_bytes() for run in ("short", "long"))
        assert short == whole, name
    assert json.loads((tmp_path / "short" / "config.json").read_text())["config"]["num_images"] == 128
    undiffuse.fine("sample", tmp_path / "short", "-n", 1, "--steps", 1, "--out", tmp_path / "s")
    assert "64" in undiffuse.rejected(
        "train", "--resume", "--out", tmp_path / "short", "num_images=64"
    )  # never shorter


def test_a_rate_that_falls_to_its_end_is_another_run(undiffuse: CommandLine, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    undiffuse.fine("train", "ddpm-digits", *_SMALL, "optimizer.decay=cosine", "num_images=64", "--out", run)
    before = (run / "config.json").read_bytes()
    output = undiffuse.fine("train", "--resume", "--out", run).out
    assert "optimizer.decay=cosine" in output
    rejected = undiffuse.rejected("train", "--resume", "--out", run, "num_images=128")
    for text in (output, rejected):
        (printed,) = re.findall(r"start a new run with: undiffuse (.*)", text)
        assert shlex.split(printed) == ["train", "--config", str(run), "num_images=128", "--out", "OTHER"]
    assert (run / "config.json").read_bytes() == before
    undiffuse.fine(*shlex.split(printed.replace("OTHER", shlex.quote(str(tmp_path / "anew")))))
    assert json.loads((tmp_path / "anew" / "config.json").read_text())["config"]["num_images"] == 128


def test_a_run_that_is_not_finished_gets_no_such_note(undiffuse: CommandLine, tmp_path: Path) -> None:
    train = ("train", "ddpm-digits", *_SMALL, "num_images=64", "--out", tmp_path / "run")
    assert "left to train" not in undiffuse.fine(*train, "--stop-after", "0.01s").out
    output = undiffuse.fine("train", "--resume", "--out", tmp_path / "run").out
    assert "resuming" in output and "left to train" not in output
