"""A newcomer who types what README says about images of their own gets samples of a model that was trained on them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from doc_pages import ROOT
from PIL import Image

from undiffuse.cli.main import main

#: What makes the training small; a newcomer leaves it out.
SMALL = ["num_images=64", "batch_images=32", "system.network.channels=8", "system.sampling.num_steps=2"]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def lines() -> list[str]:
    """The commands of the section, in their order."""
    block = re.search(r"## Your own images\n\n```console\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    return [line.split("#")[0].strip() for line in block[1].splitlines()]


def test_the_page_is_short() -> None:
    """What there is, how to begin, six results: all else has a page of its own that README links to."""
    assert len(TEXT.encode()) <= 8_000


def test_four_commands_are_enough() -> None:
    sampled = next(number for number, line in enumerate(lines(), 1) if line.startswith("undiffuse sample"))
    assert sampled <= 4 and len(lines()) <= 5


def test_they_work_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in a folder that holds images and nothing else."""
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (24, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        place = tmp_path / "my-images" / f"{number:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.broadcast_to(colour, (34, 40, 3)).copy()).save(place)
    for line in lines():
        words = shlex.split(line)
        if words[0] == "undiffuse":
            with pytest.raises(SystemExit) as ended:
                main([*words[1:], *(SMALL if words[1] == "train" else [])])
            assert not ended.value.code
    assert len(list((tmp_path / "samples" / "mine-001").glob("0*.png"))) == 64
    assert (tmp_path / "samples" / "mine-001" / "grid.png").is_file()
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
