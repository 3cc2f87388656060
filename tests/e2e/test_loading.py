"""Training with worker processes: resumed bit for bit, and none of them left behind."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, assert_same_run
from PIL import Image

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.training.config import RunConfig, differences
from undiffuse.training.trainer import Trainer


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of grey images."""
    folder = tmp_path / "set"
    folder.mkdir()
    for index in range(30):
        levels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index:02d}.png")
    return folder


def children() -> set[int]:
    """Processes that this one has started and that are alive."""
    return {child.pid or 0 for child in multiprocessing.active_children()}


def train_and_report(image_folder: Path, folder: Path, pids: Path) -> None:
    config = lazily_trained(image_folder, 1)
    trainer = Trainer(config, *split_data(config), folder)
    trainer.loader.batch(0, 4)
    pids.write_text(" ".join(map(str, children())))
    time.sleep(60)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_training(tmp_path: Path, image_folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=train_and_report, args=(image_folder, tmp_path / "run", tmp_path / "pids")
    )
    process.start()
    end = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.join()
    workers = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert workers
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # torch looks after its parent every five seconds
        assert time.monotonic() < end
        time.sleep(0.1)


TRAIN_AND_DAMAGE = """
import sys
from pathlib import Path
from undiffuse.api import training
from undiffuse.cli.main import main
from undiffuse.data import load_dataset
from undiffuse.data.storage import encoded

def damaged_when_loaded(config):
    dataset = load_dataset(config)
    Path(dataset.item_name(7)).write_bytes(b"no image")
    return dataset

encoded.MAX_BYTES_IN_MEMORY = 1
training.load_dataset = damaged_when_loaded
main(sys.argv[1:])
"""


def test_a_damaged_image_met_by_a_worker_ends_the_program_with_one_line(tmp_path: Path, image_folder: Path) -> None:
    """It once hung at the end, waiting for workers that the error's traceback held on to."""
    options = [*TINY, "loader.workers=2", "data.size=8", "data.channels=1", "data.cache=none"]
    words = ["train", "ddpm-digits", *options, "system.class_conditional=false"]
    words += ["--data", str(image_folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_DAMAGE, *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr and "07.png: " in ended.stderr.strip().splitlines()[-1]


def lazily_trained(image_folder: Path, workers: int) -> RunConfig:
    """A tiny run on the folder; ``loader.workers`` asked for, so that they are used whatever the set."""
    options = [
        *TINY,
        f"loader.workers={workers}",
        "data.size=8",
        "data.channels=1",
        "data.cache=none",
        "system.class_conditional=false",
    ]
    return configure("ddpm-digits", options, str(image_folder), None, False)


def run_to(config: RunConfig, folder: Path, images: int) -> None:
    trainer = Trainer(config, *split_data(config), folder)
    trainer.resume()
    one_step = trainer._one_step

    def one_step_and_look() -> None:
        one_step()
        if trainer.images >= images:
            trainer.request_stop()

    trainer._one_step = one_step_and_look  # type: ignore[method-assign]
    trainer.run()


def test_a_run_resumed_with_other_workers_ends_bit_for_bit_the_same(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    before = children()
    run_to(lazily_trained(image_folder, 0), tmp_path / "whole", 10**9)
    for workers, images in ((2, 40), (1, 104), (2, 10**9)):
        run_to(lazily_trained(image_folder, workers), tmp_path / "parts", images)
    assert children() == before
    (tmp_path / "parts" / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_is_no_part_of_the_result_may_change_when_a_run_is_resumed(image_folder: Path) -> None:
    one, other = (lazily_trained(image_folder, workers).model_dump(mode="json") for workers in (0, 2))
    assert one != other and differences(one, other) == []
    assert differences(one, {**other, "data": {**other["data"], "cache": "auto"}}) == []
    assert differences(one, {**one, "seed": 1}) == ["seed: 0 -> 1"]
