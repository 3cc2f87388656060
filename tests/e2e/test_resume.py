"""A run is a function of its configuration: killed, stopped and resumed, it ends bit for bit the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import (
    TINY,
    CommandLine,
    assert_same_run,
    child,
    last_checkpoint,
    log_rows_of,
    no_leftovers,
    run_until,
    state_of,
    trainer_of,
)

from sparse_product import mostly_slow
from undiffuse.api.configuration.parsing import parse_duration
from undiffuse.api.configuration.runs import configure
from undiffuse.api.examining import _checkpoints
from undiffuse.api.training import split_data
from undiffuse.checksums import with_checksum
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.diagnostics.run_files import files as examine_files
from undiffuse.errors import UsageError
from undiffuse.models import saved
from undiffuse.observer import Silent
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

VARIANTS = {
    "plain": ("optimizer.warmup_images=100",),
    "accumulation and dropout": ("micro_batch_images=4", "system.network.dropout=0.2"),
    "mid-window, cosine decay, ramped average": (
        "log_every_images=80",
        "checkpoint_every_images=48",
        "optimizer.decay=cosine",
        "ema.halflife_images=64",
        "ema.rampup=0.5",
    ),
    "muon": ("optimizer.name=muon",),
    "averages chosen afterwards": ('ema.posthoc={"snapshot_every_images": 48}',),
    "a guide taken on the way": ("system.guide_images=100", "ema.posthoc={}", "ema.halflife_images=64"),
    "flips in bf16": ("random_flip=true", "system.precision=bf16", "optimizer.name=adamw"),
    "conditioned on augmentation": ("augment=document", "micro_batch_images=8"),
    "learned variance, times drawn by importance": (
        "system.process=ddpm_cosine",
        "system.process.num_steps=4",
        "system.learned_variance=true",
        "system.objective=hybrid",
        "system.time_draws=importance",
        "micro_batch_images=8",
    ),
}
#: The same in four runs; by itself each is slow.
TOGETHER = {
    "first four": ("accumulation and dropout", "plain", "averages chosen afterwards"),
    "log, cosine, flips, bf16": ("mid-window, cosine decay, ramped average", "flips in bf16"),
    "guide and augmentation": ("a guide taken on the way", "conditioned on augmentation"),
    "learned variance": ("learned variance, times drawn by importance",),
}


#: Nine steps, stopped after three and after seven, in whose midst a validation, a guide and a snapshot fall.
NINE = ("num_images=144", "validate_every_images=64")


def digits(*overrides: str) -> RunConfig:
    return configure("ddpm-digits", [*TINY, *overrides], None, None, False)


@pytest.mark.parametrize(
    "variants",
    [*TOGETHER.values(), *(pytest.param((name,), marks=pytest.mark.slow) for name in VARIANTS)],
    ids=[*TOGETHER, *VARIANTS],
)
def test_a_run_in_three_parts_ends_as_in_one(variants: tuple[str, ...], tmp_path: Path) -> None:
    options = [option for variant in variants for option in VARIANTS[variant]]
    config = digits(*NINE, "checkpoint_every_images=96", *options)
    assert trainer_of(config, tmp_path / "whole").run()
    run_until(config, tmp_path / "parts", 48)  # between two rows of the metrics log
    run_until(config, tmp_path / "parts", 112)
    assert trainer_of(config, tmp_path / "parts").resume()
    run_until(config, tmp_path / "parts", 10**9)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("num_images", "most"), [(160, 2), pytest.param(640, 4, marks=pytest.mark.slow)])
def test_killed_at_random_moments(num_images: int, most: int, tmp_path: Path, undiffuse: CommandLine) -> None:
    options = (
        *TINY,
        f"num_images={num_images}",
        "micro_batch_images=8",
        "system.network.dropout=0.1",
        "log_every_images=48",
    )
    undiffuse.fine("train", "ddpm-digits", *options, "--out", tmp_path / "whole")
    out, log = tmp_path / "killed", tmp_path / "log"
    moments, kills = random.Random(0), 0
    for _ in range(20):
        process = child(log, "train", "ddpm-digits", *options, "--out", out, "--resume")
        if kills < most:
            wait_for_a_new_checkpoint(out, process)
            process.join(moments.uniform(0, 0.15))
            kills += process.is_alive()
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
    assert process.exitcode == 0, log.read_text()
    assert kills >= most // 2, log.read_text()
    assert_same_run(tmp_path / "whole", out)
    assert no_leftovers(out)


def wait_for_a_new_checkpoint(out: Path, process: object) -> None:
    """Until the run has written one more checkpoint, or for 20 seconds."""

    def newest() -> str:
        return max((path.name for path in (out / "checkpoints").glob("images_*")), default="")

    before, end = newest(), time.monotonic() + 20
    while newest() == before and process.is_alive() and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_writes_a_checkpoint_and_ends_with_its_number(
    number: int, tmp_path: Path, undiffuse: CommandLine
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    options = (*TINY, "num_images=100000000", "checkpoint_every_images=0")
    process = child(log, "train", "ddpm-digits", *options, "--out", out)
    end = time.monotonic() + 30
    while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").read_text():
        assert process.is_alive() and time.monotonic() < end, log.read_text()
        time.sleep(0.01)
    os.kill(process.pid or 0, number)
    process.join(20)
    assert process.exitcode == 128 + number, log.read_text()
    assert signal.Signals(number).name in log.read_text()
    assert "--resume --out" in log.read_text()
    rows = log_rows_of(out)
    images = json.loads((last_checkpoint(out) / "state.json").read_text())["counters"]["images"]
    assert rows[-1]["images"] <= images < rows[-1]["images"] + 32
    assert (out / "model.safetensors").is_file()
    assert no_leftovers(out)


def test_stop_after_changes_no_schedule(tmp_path: Path, undiffuse: CommandLine) -> None:
    options = (*TINY, *NINE, "optimizer.warmup_images=64", "optimizer.decay=cosine")
    undiffuse.fine("train", "ddpm-digits", *options, "--out", tmp_path / "whole")
    stopped = undiffuse.fine("train", "ddpm-digits", *options, "--out", tmp_path / "parts", "--stop-after", "0.01s")
    assert "stopped at 16 images" in stopped.out.replace("\n", " ")
    undiffuse.fine("train", "--resume", "--out", tmp_path / "parts", "--stop-after", "0.05")
    undiffuse.fine("train", "--resume", "--out", tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resuming_a_finished_run_changes_nothing(whole: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    shutil.copytree(whole, tmp_path / "twice")
    undiffuse.fine("train", "--resume", "--out", tmp_path / "twice")
    assert_same_run(whole, tmp_path / "twice")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5s", "soon", "5 days", "0.0m"])
def test_senseless_durations(text: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        parse_duration(text)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped halfway, and the same that was not; not to be changed."""
    folder = tmp_path_factory.mktemp("halves")
    run_until(digits(*NINE), folder / "half", 96)
    assert trainer_of(digits(*NINE), folder / "whole").run()
    return folder


@pytest.fixture
def half_done(halves: Path, tmp_path: Path) -> Path:
    """A run stopped halfway, with two checkpoints."""
    return Path(shutil.copytree(halves / "half", tmp_path / "run"))


@pytest.fixture
def whole(halves: Path) -> Path:
    """The same run to its end; not to be changed."""
    return halves / "whole"


def test_another_configuration_is_rejected_with_the_difference(half_done: Path, undiffuse: CommandLine) -> None:
    line = undiffuse.rejected("train", "optimizer.learning_rate=0.5", "--resume", "--out", half_done)
    assert "optimizer.learning_rate: " in line and " -> 0.5)" in line
    line = undiffuse.rejected("train", "flow-mnist", "--data", "digits", "--resume", "--out", half_done)
    assert "recipe: 'ddpm-digits' -> 'flow-mnist'" in line


def test_changed_data_is_rejected(half_done: Path, undiffuse: CommandLine) -> None:
    edit_json(half_done / "config.json", lambda record: record["data"].update(fingerprint="0" * 32))
    undiffuse.fine("seal", half_done)
    assert "data" in undiffuse.rejected("train", "--resume", "--out", half_done)


def test_a_newer_config_is_rejected_by_name(half_done: Path, undiffuse: CommandLine) -> None:
    edit_json(half_done / "config.json", lambda record: record.update(format_version=99))
    for command in (["train", "--resume", "--out", half_done], ["sample", half_done]):
        line = undiffuse.rejected(*command)
        assert "format_version 99" in line and "upgrade" in line


def test_a_newer_checkpoint_is_rejected_by_name(half_done: Path, undiffuse: CommandLine) -> None:
    def newer(record: dict[str, object]) -> None:
        record.update(with_checksum({**record, "format_version": 99}))

    newest = last_checkpoint(half_done)
    edit_json(newest / "state.json", newer)
    line = undiffuse.rejected("train", "--resume", "--out", half_done)
    assert "format_version 99" in line and newest.name in line


def edit_json(path: Path, change: object) -> None:
    record = json.loads(path.read_text())
    change(record)  # type: ignore[operator]
    path.write_text(json.dumps(record))


DAMAGES = ["weights cut", "weights flipped", "counters cut", "counters flipped", "weights gone", "empty folder"]


def damage(checkpoint: Path, kind: str) -> None:
    if kind == "empty folder":
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
        return
    what, how = kind.split()
    path = checkpoint / ("state.safetensors" if what == "weights" else "state.json")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content if how == "flipped" else content[: len(content) // 2])


@pytest.mark.parametrize("kind", mostly_slow(DAMAGES, "weights flipped", "counters cut", "empty folder"))
def test_a_damaged_checkpoint_gives_way_to_an_older_intact_one(
    kind: str, half_done: Path, whole: Path, undiffuse: CommandLine
) -> None:
    newest = last_checkpoint(half_done)
    damage(newest, kind)
    outcome = undiffuse.fine("train", "--resume", "--out", half_done)
    assert newest.name in outcome.err and "damaged" in outcome.err
    assert "resuming" in outcome.out
    assert_same_run(whole, half_done)
    assert (half_done / "checkpoints" / f"damaged_{newest.name}").is_dir()


def test_with_no_intact_checkpoint_nothing_is_overwritten(half_done: Path, undiffuse: CommandLine) -> None:
    for path in (half_done / "checkpoints").glob("images_*"):
        damage(path, "weights cut")
    before = {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()}
    line = undiffuse.rejected("train", "--resume", "--out", half_done)
    assert "no checkpoint" in line and "damaged" in line
    assert {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()} == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    half_done: Path, whole: Path, undiffuse: CommandLine
) -> None:
    shutil.rmtree(half_done / "checkpoints")
    (half_done / ".config.json.999999999.tmp").write_text("{")  # larger than any process's number
    (half_done / "snapshots").mkdir()
    (half_done / "snapshots" / ".images_16.safetensors.999999999-5.tmp").write_text("")
    outcome = undiffuse.fine("train", "--resume", "--out", half_done)
    assert "starting from the beginning" in outcome.out.replace("\n", " ")
    assert_same_run(whole, half_done)
    assert no_leftovers(half_done)


def test_so_many_checkpoints_are_kept(tmp_path: Path) -> None:
    assert trainer_of(digits(*NINE, "keep_checkpoints=3"), tmp_path / "run").run()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"images_{images:012d}" for images in (96, 128, 144)]


def test_the_checkpoint_holds_weights_averages_and_optimizer(half_done: Path) -> None:
    kinds = {name.split(".")[0] for name in state_of(half_done)}
    assert kinds == {"model", "ema", "optimizer"}


def test_going_on_on_another_kind_of_device_is_reported(half_done: Path) -> None:
    class Listening(Silent):
        def message(self, text: str) -> None:
            received.append(text)

    received: list[str] = []
    config = digits(*NINE)
    assert Trainer(config, *split_data(config), half_done, observer=Listening()).resume()
    assert received == []

    def on_a_gpu(record: dict[str, dict[str, object]]) -> None:
        record["counters"]["device"] = "cuda"
        record.update(with_checksum(record))

    edit_json(last_checkpoint(half_done) / "state.json", on_a_gpu)
    assert Trainer(config, *split_data(config), half_done, observer=Listening()).resume()
    assert len(received) == 1 and "cuda" in received[0] and "cpu" in received[0]


def test_going_on_with_other_threads_or_norms_is_reported_and_kept(half_done: Path) -> None:
    state = last_checkpoint(half_done) / "state.json"
    (now,) = json.loads(state.read_text())["counters"]["settings"]
    assert now["threads"] == 1 and now["torch"] == torch.__version__ and now["arithmetic"] == "float32"
    assert now["cpu"] and now["norms"] == "torch's" and now["compiler"] is None  # asked of bf16 models alone
    before = {**now, "threads": 7, "norms": "own", "compiler": "c++ 12"}

    def elsewhere(record: dict[str, dict[str, object]]) -> None:
        record["counters"]["settings"] = [before]
        record.update(with_checksum(record))

    edit_json(state, elsewhere)
    received: list[str] = []

    class Listening(Silent):
        def message(self, text: str) -> None:
            received.append(text)

    config = digits(*NINE)
    trainer = Trainer(config, *split_data(config), half_done, observer=Listening())
    assert trainer.resume() and len(received) == 1
    assert (
        "computed with 7 threads, own norms, compiled by c++ 12 and continues with 1 thread, torch's norms"
        in received[0]
    )
    assert trainer.run()
    kept = json.loads((last_checkpoint(half_done) / "state.json").read_text())["counters"]["settings"]
    assert kept == [before, {**now, "images": 96}]
    subject = RunContext(half_done, {}, lambda: split_data(config), checkpoints=_checkpoints(half_done))
    titles = {finding.title: finding.evidence for finding in examine_files(subject)}
    assert "at 96 images" in titles["trained with more than one setting"]


def test_where_muons_products_are_otherwise_a_run_reports_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits("optimizer.name=muon")
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", "bf16=never")
    run_until(config, tmp_path, 32)
    state = last_checkpoint(tmp_path) / "state.json"

    def before_it_was_written_down(record: dict[str, dict[str, Any]]) -> None:
        assert record["counters"]["settings"][0].pop("optimizer") == "float32"
        record.update(with_checksum(record))

    edit_json(state, before_it_was_written_down)
    received: list[str] = []

    class Listening(Silent):
        def message(self, text: str) -> None:
            received.append(text)

    assert Trainer(config, *split_data(config), tmp_path, observer=Listening()).resume()
    assert "with bfloat16 products in the optimizer and continues with float32 products in the optimizer" in received[0]


def test_that_compiling_was_passed_over_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listening(Silent):
        def message(self, text: str) -> None:
            received.append(text)

    received: list[str] = []
    config = digits("compile=true")
    trainer = Trainer(config, *split_data(config), tmp_path / "run", observer=Listening())
    monkeypatch.setattr(trainer.objective.model, "compile_networks", lambda: "skipped")
    trainer.run(stop_after_seconds=0)
    assert received == ["skipped"]


def test_raw_weights_can_be_loaded(half_done: Path) -> None:
    raw, average = saved.load(half_done, weights="raw"), saved.load(half_done)
    state = state_of(half_done)
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in raw.module.state_dict().items())
    assert all(torch.equal(value, state[f"ema.{name}"]) for name, value in average.module.state_dict().items())
    assert raw.weights_sha256 != average.weights_sha256
    with pytest.raises(UsageError, match="kind of weights 'rav'"):
        saved.load(half_done, weights="rav")
    (half_done / "raw.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no raw\.safetensors"):
        saved.load(half_done, weights="raw")


@pytest.mark.slow
def test_one_compiled_step_is_the_step(tmp_path: Path) -> None:
    options = ["num_images=16", "batch_images=16", "validate_every_images=0", "preview_every_images=0"]
    options += ["system.network.width=8", "system.network.num_blocks=1", "data.num_points=100"]
    for name in ("false", "true"):
        config = configure("ddpm-swissroll", [*options, f"compile={name}"], None, None, False)
        assert trainer_of(config, tmp_path / name).run()
    plain, compiled = state_of(tmp_path / "false"), state_of(tmp_path / "true")
    assert plain.keys() == compiled.keys()
    assert [name for name in plain if not torch.allclose(plain[name], compiled[name], rtol=1e-3, atol=1e-3)] == []
