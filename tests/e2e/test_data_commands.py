"""``undiffuse data prepare`` and ``data get`` as they are called."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, child
from PIL import Image

from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.download import SETS

NARROW = ("system.network.channels=8", "batch_images=4")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in three classes; not to be changed."""
    return some_images(tmp_path_factory.mktemp("some") / "images", 60)


def some_images(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (96, 110, 3), dtype=np.uint8)).save(path, compress_level=0)
    return folder


def test_prepare_then_look(undiffuse: CommandLine, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    options = ("--size", "32", "--classes", "class0,class2", "--filter", "min_side=10", "--workers", "1")
    message = undiffuse.fine("data", "prepare", images, *options, "--out", out)
    assert "40 of 32x32, RGB" in message.out and "undiffuse data info" in message.out
    looked = undiffuse.fine("data", "info", out, "--grid", tmp_path / "sheet.png")
    assert "40 images of shape (3, 32, 32)" in looked.out and "class0: 20" in looked.out
    assert (tmp_path / "sheet.png").is_file()
    trained = undiffuse.fine("train", "ddpm-digits", "--data", out, *NARROW, "--dry-run", "--device", "cpu")
    assert "32" in trained.out


def test_prepare_takes_the_options_of_the_source(undiffuse: CommandLine, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    undiffuse.fine(
        *("data", "prepare", images, "labels=none", "--size", "24x32", "--fit", "letterbox", "--channels", "1"),
        *("--background", "[9,9,9]", "--out", out),
    )
    dataset = load_dataset(source_config_for(str(out)))
    assert dataset.shape == (1, 24, 32) and dataset.labels is None
    assert dataset.items(np.array([0]))[0, 0, 0, 0] == 9


def test_info_takes_the_options_of_the_source(undiffuse: CommandLine, images: Path) -> None:
    message = undiffuse.fine("data", "info", images, "labels=none", "size=16", "channels=1")
    assert "60 images of shape (1, 16, 16)" in message.out and "class0" not in message.out
    assert "did you mean 'labels'?" in undiffuse.rejected("data", "info", images, "lables=none")
    assert "expected key=value, got 'labels'" in undiffuse.rejected("data", "info", images, "labels")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--size", "0"), "expected a side of 1..8192"),
        (("--filter", "min_size=3"), "did you mean 'min_side'?"),
        (("--filter", "min_side=x"), "'min_side'"),
        (("--filter", "min_side"), "expected key=value"),
        (("lables=none",), "did you mean 'labels'?"),
        (("labels",), "expected key=value"),
        (("--on-error", "ignore"), "'fail' or 'skip'"),
        (("--workers", "0"), "--workers must be in 1..1024"),
        (("--classes", "class9"), "no class 'class9'"),
        (("--size", "128"), "data.on_error=skip"),
    ],
    ids=str,
)
def test_prepare_rejects_in_one_line(
    undiffuse: CommandLine, images: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    assert complaint in undiffuse.rejected("data", "prepare", images, *options, "--out", tmp_path / "out.zip")


def test_prepare_rejects_points(undiffuse: CommandLine, tmp_path: Path) -> None:
    assert "has points" in undiffuse.rejected("data", "prepare", "rings", "--out", tmp_path / "out.zip")


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow  # contract/test_prepare.py interrupts without a process to kill
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
def test_killed_it_goes_on_to_the_same_archive(undiffuse: CommandLine, tmp_path: Path) -> None:
    images = some_images(tmp_path / "images", 600)  # enough to take a while
    out, whole, log = tmp_path / "out.zip", tmp_path / "whole.zip", tmp_path / "log"
    command = ("data", "prepare", images, "--size", "64", "--workers")
    undiffuse.fine(*command, "1", "--out", whole)
    for kills in range(2):
        process = child(log, *command, "2", "--out", out)
        data = tmp_path / "out.zip.partial"
        more = (200 + 200 * kills) * 12_000  # of 600 images of twelve thousand bytes
        wait_until(lambda: (data.exists() and data.stat().st_size > more) or not process.is_alive())  # noqa: B023
        workers = children_of(process.pid or 0) if process.is_alive() else []
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # noqa: B023
    assert data.exists() and not out.exists(), log.read_text()
    undiffuse.fine(*command, "2", "--out", out)
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*partial*"))


def test_get_lists_the_sets(undiffuse: CommandLine) -> None:
    message = undiffuse.fine("data", "get").out
    assert [name for name in SETS if f"{name} " not in message] == []
    assert "fetched by hand" not in message and "non-commercial" in message


def test_get_by_hand_reports_which_file_to_put_where(undiffuse: CommandLine, tmp_path: Path) -> None:
    outcome = undiffuse("data", "get", "celeba", "--out", tmp_path)
    assert outcome.code == 2 and "has to be fetched by hand" in outcome.complaint
    for word in ("img_align_celeba.zip", "1443490838 bytes", "md5:00d2c5bc6d35e252742224ab0c1e8fcb", str(tmp_path)):
        assert word in outcome.out


def test_get_without_a_network(undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def nowhere(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    outcome = undiffuse("data", "get", "mnist", "--out", tmp_path)
    assert outcome.code == 1 and "no such host as yann.lecun.com" in outcome.complaint
    assert "train-images-idx3-ubyte.gz  9912422 bytes, md5:f68b3c2dcbeaaa9fbdd348bbdeb94873" in outcome.out


def test_get_an_unknown_set(undiffuse: CommandLine) -> None:
    assert "did you mean 'mnist'?" in undiffuse.rejected("data", "get", "mnits")


def test_get_what_is_there(undiffuse: CommandLine, shared_data: Path) -> None:
    if not (shared_data / "mnist").is_dir():
        pytest.skip("no MNIST there")
    message = undiffuse.fine("data", "get", "mnist", "--out", shared_data / "mnist").out
    assert f"--data {shared_data / 'mnist'}" in message


def test_names_and_captions_give_the_terminal_no_commands(undiffuse: CommandLine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((8, 8, 3), ord(name), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a \x1b[31mred\u202e one")
    shown = undiffuse("data", "info", tmp_path)
    assert shown.code == 0 and r"a \x1b[31mred\u202e one" in shown.out and "\x1b[31m" not in shown.out
    (tmp_path / "\x1b]0;x\udcff.png").write_bytes(b"no image")
    (tmp_path / "\x1b]0;x\udcff.txt").write_text("c")
    assert r"\x1b]0;x\xff.png" in undiffuse("data", "info", tmp_path).complaint
    out = tmp_path / "out.zip"
    prepared = undiffuse("data", "prepare", tmp_path, "--out", out, "--on-error", "skip")
    assert prepared.code == 0 and r"\x1b]0;x\xff.png" in prepared.out
