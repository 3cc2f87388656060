"""Whatever is wrong is said in one line, with exit code 2 (or 1 while running), and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, CommandLine, change_config, no_leftovers
from PIL import Image

from undiffuse.cli.main import main
from undiffuse.errors import UsageError


def train(*more: object) -> tuple[object, ...]:
    return ("train", "ddpm-digits", *TINY, *more)


REQUESTS = {
    "recipe": (("train", "ddpm-digit"), "ddpm-digits"),
    "no recipe": (("train",), "recipes"),
    "command": (("trian",), "train"),
    "option": (("train", "ddpm-digits", "--outt", "x"), "--out"),
    "key": (train("num_image=5"), "num_images"),
    "nested key": (train("optimizer.learning_rat=1"), "learning_rate"),
    "network key": (train("system.network.chanels=8"), "channels"),
    "section": (train("optimiser.learning_rate=1"), "optimizer"),
    "no equals sign": (train("num_images"), "key=value"),
    "process": (train("system.process.name=vpsd"), "unknown process 'vpsd'"),
    "network": (train("system.network.name=uent"), "unet"),
    "weighting": (train("system.weighting.name=none"), "min_snr"),
    "default sampler": (train("system.sampling.sampler=hune"), "heun"),
    "default grid": (train("system.sampling.grid=karas"), "karras"),
    "parameterization": (train("system.parameterization=epsilon"), "eps"),
    "type": (train("num_images=many"), "'many'"),
    "no images": (train("num_images=0"), "num_images"),
    "negative rate": (train("optimizer.learning_rate=-0.1"), "learning_rate"),
    "rate not a number": (train("optimizer.learning_rate=NaN"), "learning_rate"),
    "negative seed": (train("seed=-1"), "seed"),
    "zero batch": (train("batch_images=0"), "batch_images"),
    "micro-batch": (train("micro_batch_images=5"), "divide"),
    "dropout": (train("system.network.dropout=1.5"), "dropout"),
    "no process steps": (train("system.process.num_steps=0"), "num_steps"),
    "attention level": (train("system.network.attention_levels=[7]"), "attention level"),
    "precision": (train("system.precision=fp8"), "bf16"),
    "crop larger than image": (train("data.size=16"), "upscale"),
    "size": (train("data.size=big"), "48x64"),
    "validation fraction": (train("data.validation_fraction=1"), "validation_fraction"),
    "flips of points": (("train", "flow-swissroll", "random_flip=true"), "random_flip"),
    "images' network for points": (train("--data", "swissroll"), "mlp"),
    "data": (train("--data", "nowhere"), "nowhere"),
    "resume without a run": (("train", "--resume"), "--out"),
    "stop after": (train("--stop-after", "soon"), "10m"),
    "device": (train("--device", "tpu"), "cuda"),
    "model": (("sample", "nowhere"), "nowhere"),
    "report of nothing": (("report", "nowhere"), "nowhere"),
    "data info": (("data", "info", "nowhere"), "nowhere"),
    "idx without path": (("data", "info", "idx"), "path"),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_senseless_requests(what: str, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = REQUESTS[what]
    assert expected in undiffuse.rejected(*arguments)
    assert list(tmp_path.rglob("*")) == []


MODEL_REQUESTS = {
    "sampler": (("sample", "--sampler", "hune"), "heun"),
    "sampler option": (("sample", "--sampler", "ddim:ta=1"), "eta"),
    "sampler option's value": (("sample", "--sampler", "ddim:eta=lots"), "number"),
    "eta": (("sample", "--sampler", "ddim:eta=-1"), "eta"),
    "grid": (("sample", "--grid", "karas"), "karras"),
    "steps": (("sample", "--steps", "0"), "step"),
    "negative steps": (("sample", "--steps", "-3"), "step"),
    "steps in words": (("sample", "--steps", "ten"), "ten"),
    "number": (("sample", "-n", "0"), "at least 1"),
    "batch size": (("sample", "--batch-size", "0"), "at least 1"),
    "seed": (("sample", "--seed", "-1"), "seed"),
    "class": (("sample", "--class", "eleven"), "unknown class"),
    "device": (("sample", "--device", "tpu"), "cuda"),
    "sampler option twice": (("sample", "--sampler", "ddim:eta=0,eta=1"), "twice"),
    "no sampler's name": (("sample", "--sampler", ""), "unknown sampler"),
    "no grid's name": (("sample", "--grid", ""), "unknown time grid"),
    "metric": (("evaluate", "--metrics", "fid"), "unknown metric"),
    "no metric": (("evaluate", "--metrics", ","), "no metric"),
    "sampler that no metric uses": (("evaluate", "--metrics", "vlb", "--sampler", "hune"), "heun"),
    "process that no metric uses": (("evaluate", "--metrics", "vlb", "--process", "vee"), "unknown process"),
    "steps that no metric uses": (("evaluate", "--metrics", "vlb", "--steps", "0"), "step"),
    "features": (("evaluate", "--features", "inception", "--metrics", "frechet", "--num", "200"), "inception"),
    "samples": (("evaluate", "--num", "0"), "at least 1"),
    "batch of evaluation": (("evaluate", "--batch-size", "0"), "at least 1"),
    "bound": (("evaluate", "--bound-images", "0"), "at least 1"),
    "seed of evaluation": (("evaluate", "--seed", "-5"), "seed"),
    "evaluation data": (("evaluate", "--data", "nowhere"), "nowhere"),
    "evaluation shape": (("evaluate", "--data", "swissroll"), "shape"),
}


@pytest.mark.parametrize("what", MODEL_REQUESTS)
def test_senseless_requests_of_a_model(
    what: str, trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (command, *options), expected = MODEL_REQUESTS[what]
    assert expected in undiffuse.rejected(command, trained, *options, "--out", tmp_path / "out")
    assert list(tmp_path.rglob("*")) == []


def test_classes_of_a_model_without(trained_bf16: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    assert "without classes" in undiffuse.rejected("sample", trained_bf16, "--class", "3", "--out", tmp_path / "out")


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def make_data(folder: Path, kind: str) -> Path:
    """A folder of images, or a file, with one thing wrong."""
    images = folder / "pictures"
    images.mkdir()
    if kind == "empty folder":
        return images
    if kind == "no images":
        (images / "notes.txt").write_text("nothing to see")
        return images
    if kind.startswith("idx"):
        return make_idx(images, kind)
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).save(images / f"{index:02d}.png")
    bad = images / "05.png"
    contents = {"zero bytes": b"", "not an image": b"<html>404</html>", "bomb": bomb()}
    bad.write_bytes(contents.get(kind, bad.read_bytes()[:100]))
    return images


def make_idx(folder: Path, kind: str) -> Path:
    path = folder / "train-images-idx3-ubyte"
    whole = struct.pack(">IIII", 0x803, 40, 8, 8) + bytes(40 * 64)
    path.write_bytes({"idx cut": whole[:900], "idx empty": b"", "idx of text": b"no numbers here"}[kind])
    return folder


KINDS = ["empty folder", "no images", "zero bytes", "not an image", "truncated", "bomb"]


@pytest.mark.parametrize("kind", [*KINDS, "idx cut", "idx empty", "idx of text"])
def test_bad_files(kind: str, undiffuse: CommandLine, tmp_path: Path) -> None:
    data, out = make_data(tmp_path, kind), tmp_path / "run"
    line = undiffuse.rejected(*train(), "--data", data, "--out", out)
    assert str(data) in line
    assert not out.exists()
    undiffuse.rejected("data", "info", data)


def test_a_missing_file_in_a_recipe(undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = undiffuse.rejected("train", "flow-mnist")
    assert "data/mnist" in line and "--data" in line
    assert list(tmp_path.rglob("*")) == []


def test_out_is_a_file(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("mine")
    for command in (train("--out", out), ("sample", trained, "--out", out), ("sample", trained, "--out", out / "x")):
        assert "file" in undiffuse.rejected(*command)
    assert "file" in undiffuse.rejected("evaluate", trained, "--out", out / "x.json")
    assert "file" in undiffuse.rejected(*train("--out", out / "run"))
    assert out.read_text() == "mine"


def test_out_of_evaluate_is_a_folder(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    assert "folder" in undiffuse.rejected("evaluate", trained, "--metrics", "vlb", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_out_holds_something_else(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    assert "not empty" in undiffuse.rejected(*train("--out", tmp_path))
    for options in ((), ("--overwrite",)):
        assert "something other" in undiffuse.rejected("sample", trained, "--out", tmp_path, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_out_holds_a_run_or_samples(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    assert "--resume" in undiffuse.rejected(*train("--out", trained))
    out = tmp_path / "samples"
    undiffuse.fine("sample", trained, "-n", 3, "--steps", 2, "--out", out)
    assert "--overwrite" in undiffuse.rejected("sample", trained, "-n", 2, "--steps", 2, "--out", out)
    undiffuse.fine("sample", trained, "-n", 2, "--steps", 2, "--out", out, "--overwrite")
    assert len(list(out.glob("0*.png"))) == 2
    assert no_leftovers(tmp_path)


def test_overwrite_deletes_nothing_but_samples(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    call = ("sample", trained, "-n", 2, "--steps", 2, "--progressive", "--overwrite", "--out", tmp_path / "out")
    undiffuse.fine(*call)
    undiffuse.fine(*call)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "notes.txt" in undiffuse.rejected(*call)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_out_and_model_are_the_folder_one_stands_in(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    undiffuse.fine("sample", trained, "-n", 3, "--steps", 2, "--out", ".")
    undiffuse.fine("sample", trained, "-n", 2, "--steps", 2, "--out", ".", "--overwrite")
    assert len(list(tmp_path.glob("0*.png"))) == 2 and no_leftovers(tmp_path.parent)
    monkeypatch.chdir(trained)
    undiffuse.fine("sample", ".", "-n", 1, "--steps", 2, "--out", tmp_path / "new")
    assert json.loads((tmp_path / "new" / "samples.json").read_text())["model"] == "tiny"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained model that may be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))


def spoil(model: Path, what: str) -> None:
    config, weights = model / "config.json", model / "model.safetensors"
    if what == "no config":
        config.unlink()
    elif what == "config cut":
        config.write_bytes(config.read_bytes()[:300])
    elif what == "config of nothing":
        config.write_text("{}")
    elif what == "config without parts":
        config.write_text('{"format_version": 1}')
    elif what == "unknown system":
        config.write_text(config.read_text().replace('"diffusion"', '"diffussion"'))
    elif what == "another network":
        record = json.loads(config.read_text())
        record["config"]["system"]["network"]["channels"] = 16
        change_config(model, record)
    elif what == "no weights":
        weights.unlink()
    elif what == "weights cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "weights of nothing":
        weights.write_bytes(b"")
    elif what.startswith("one bit"):
        content = bytearray(weights.read_bytes())
        content[content.index(b"sha256") + 25 if what.endswith("checksum") else -3] ^= 0x01
        weights.write_bytes(content)
    elif what == "weights are text":
        weights.write_text("not weights" * 100)


SPOILT = {
    "no config": "config.json",
    "config cut": "config.json",
    "config of nothing": "config.json",
    "config without parts": "config.json",
    "unknown system": "diffusion",
    "another network": "config.json",
    "no weights": "model.safetensors",
    "weights cut": "model.safetensors",
    "weights of nothing": "model.safetensors",
    "weights are text": "model.safetensors",
    "one bit of the weights": "model.safetensors",
    "one bit of the checksum": "model.safetensors",
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_models(what: str, model: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    spoil(model, what)
    for command in ("sample", "evaluate"):
        assert SPOILT[what] in undiffuse.rejected(command, model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    yield from mounted(tmp_path, "size=256k")


def mounted(tmp_path: Path, options: str) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root; the simulated tests below cover the same code")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_while_training(small_disk: Path, undiffuse: CommandLine) -> None:
    line = undiffuse.rejected(*train("--out", small_disk / "run"), code=1)
    assert "no space left" in line
    assert no_leftovers(small_disk)
    assert list((small_disk / "run").rglob("state.safetensors")) == []


def test_a_full_disk_for_the_metrics_log(small_disk: Path, undiffuse: CommandLine) -> None:
    (small_disk / "ballast").write_bytes(bytes(230_000))
    options = ("checkpoint_every_images=0", "log_every_images=1", "num_images=16000", "system.network.channels=4")
    line = undiffuse.rejected(*train(*options, "--out", small_disk / "run"), code=1)
    assert "no space left" in line and "metrics.jsonl" in line


def test_a_full_disk_while_sampling(small_disk: Path, trained: Path, undiffuse: CommandLine) -> None:
    (small_disk / "ballast").write_bytes(bytes(250_000))
    line = undiffuse.rejected("sample", trained, "-n", 40, "--steps", 2, "--out", small_disk / "samples", code=1)
    assert "no space left" in line
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_disk_simulated(
    code: int, trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    out = tmp_path / "samples"
    assert str(tmp_path) in undiffuse.rejected("sample", trained, "-n", 2, "--steps", 2, "--out", out, code=1)
    assert str(tmp_path) in undiffuse.rejected(*train("--out", tmp_path / "run"), code=1)
    left = {path.parent.name for path in tmp_path.rglob("*") if path.is_file()}
    assert all(name.startswith(".samples.") and name.endswith(".partial") for name in left), "what goes on by itself"
    monkeypatch.undo()
    assert "2 of 2 exist" in undiffuse.fine("sample", trained, "-n", 2, "--steps", 2, "--out", out).out


def test_a_read_only_file_system(tmp_path: Path, trained: Path, undiffuse: CommandLine) -> None:
    for disk in mounted(tmp_path, "size=64k,ro"):
        for command in (
            train("--out", disk / "run"),
            ("sample", trained, "--out", disk / "samples"),
            ("evaluate", trained, "--out", disk / "evaluation.json"),
        ):
            line = undiffuse.rejected(*command)
            assert "read-only" in line and "choose another path" in line


def test_a_folder_that_may_not_be_written(
    tmp_path: Path, trained: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    for command in (train("--out", tmp_path / "run"), ("sample", trained, "--out", tmp_path / "samples")):
        line = undiffuse.rejected(*command)
        assert "not allowed" in line and "choose another path" in line
    assert list(tmp_path.iterdir()) == []


def test_debug_is_understood_anywhere(trained: Path) -> None:
    with pytest.raises(UsageError):
        main(["sample", str(trained), "--debug", "--steps", "0"])


def test_out_of_memory_reports_what_to_lower(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*arguments: object, **options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    monkeypatch.setattr("undiffuse.api.sampling.sample_to_folder", exhaust)
    assert "--batch-size" in undiffuse.rejected("sample", trained, "--out", tmp_path / "x", code=1)


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError):  # Python prints the traceback of what main lets through
        main(["--debug", "train", "ddpm-digit", "--out", str(tmp_path / "run")])


def test_something_unforeseen_is_one_line_too(
    undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("undiffuse.api.training.train_run", explode)
    line = undiffuse.rejected(*train("--out", tmp_path / "run"), code=1)
    assert "ZeroDivisionError" in line and "--debug" in line
