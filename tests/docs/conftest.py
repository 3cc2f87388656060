"""A small trained run where the pages say ``runs/demo``, and a folder to run their snippets in."""

from __future__ import annotations

from pathlib import Path

import pytest

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run

#: A network of a few thousand weights, a few steps: enough to load, sample and measure.
TINY = [
    "num_images=384",
    "batch_images=64",
    "system.network.channels=8",
    "system.sampling.num_steps=4",
    "validation_images=16",
    "log_every_images=128",
    "preview_every_images=0",
]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/demo`` in it."""
    folder = tmp_path_factory.mktemp("workplace")
    assert train_run(configure("ddpm-digits", TINY, None, None, False), folder / "runs" / "demo", device="cpu")
    return folder


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a test there."""
    monkeypatch.chdir(workplace)
    return workplace
