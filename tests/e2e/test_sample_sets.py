"""Many samples: written as they come, gone on with after a kill, the same bytes as in one go."""

from __future__ import annotations

import re
import signal
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine, child
from PIL import Image

from undiffuse import files as files_of_ours
from undiffuse.api import sampling
from undiffuse.checksums import is_modified, read_checked, with_checksum
from undiffuse.conditioning.prompt import Prompt
from undiffuse.data import FolderConfig, load_dataset, source_config_for
from undiffuse.diagnostics.survey import survey_folder
from undiffuse.files import json_text
from undiffuse.images import SHOWN_SIDE, image_of
from undiffuse.leftovers import remove_leftovers_of
from undiffuse.models.sample_sets import folder as sample_set
from undiffuse.models.sample_sets.folder import SampleSet
from undiffuse.models.sample_sets.record import full_record, write_record


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial"))


class Interrupted:
    """Stops the second call of ``SampleSet.take`` as Ctrl-C would, and notes the numbers of all calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers: list[int] = []
        self.stops = True
        whole = SampleSet.take

        def take(collected: SampleSet, numbers: Any, *arguments: Any) -> None:
            if self.stops and self.numbers:
                raise KeyboardInterrupt
            self.numbers += list(numbers)
            whole(collected, numbers, *arguments)

        monkeypatch.setattr(SampleSet, "take", take)


@pytest.mark.parametrize("kind", ["trained", "trained_points"])
def test_the_same_command_goes_on_where_it_was_stopped(
    kind: str, undiffuse: CommandLine, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("sample", request.getfixturevalue(kind), "-n", 10, "--steps", 2, "--batch-size", 4, "--out")
    undiffuse.fine(*common, tmp_path / "whole")
    stop = Interrupted(monkeypatch)
    broken = undiffuse(*common, tmp_path / "out")
    assert broken.code == 130 and "4 of 10 samples are kept" in broken.err
    assert not (tmp_path / "out").exists() and len(partials(tmp_path)) == 1
    under_way = "points.f32" if kind == "trained_points" else "000004.png.tmp"
    with (partials(tmp_path)[0] / under_way).open("ab") as file:
        file.write(b"abc")
    stop.stops = False
    assert "4 of 10 exist" in undiffuse.fine(*common, tmp_path / "out").out
    assert stop.numbers == list(range(10))
    assert files(tmp_path / "out") == files(tmp_path / "whole") and not partials(tmp_path)


@pytest.mark.parametrize("window", ["_rename_into_place", "_sync", "write_record", "_finish_points"])
def test_a_kill_while_the_set_is_put_in_its_place_loses_no_sample(
    window: str, undiffuse: CommandLine, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue("trained_points" if window == "_finish_points" else "trained")
    common = ("sample", model, "-n", 6, "--steps", 2, "--batch-size", 4, "--out")
    undiffuse.fine(*common, tmp_path / "whole")
    place = {"write_record": sample_set, "_finish_points": SampleSet}.get(window, files_of_ours)
    whole = getattr(place, window)

    def killed(*given: Any) -> None:
        if window == "_finish_points":
            whole(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, window, killed)
        assert undiffuse(*common, tmp_path / "out").code == 130
    remove_leftovers_of(tmp_path / "out")  # as the next command does of a process that is no more
    assert not (tmp_path / "out").exists() and len(partials(tmp_path)) == 1
    monkeypatch.setattr(SampleSet, "take", lambda *given: pytest.fail("a sample is made again"))
    assert "6 of 6 exist" in undiffuse.fine(*common, tmp_path / "out").out
    assert files(tmp_path / "out") == files(tmp_path / "whole") and not partials(tmp_path)


def test_a_sample_set_is_read_without_its_sheets_and_with_a_record_that_is_intact(
    trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    undiffuse.fine("sample", trained, "-n", 6, "--steps", 2, "--progressive", "--out", out)
    dataset = load_dataset(source_config_for(str(out)))
    assert len(dataset) == 6 and dataset.shape == (1, 8, 8)
    assert "2 sample grids: grid.png, progressive.png" in dataset.provenance["passed_over"]
    assert len(survey_folder(FolderConfig(path=str(out))).entries) == 6
    record = out / "samples.json"
    valid = record.read_text(encoding="utf-8")
    changed = valid.replace('"steps": 2', '"steps": 3', 1), valid[::-1].replace('2 :"spets"', '3 :"spets"', 1)[::-1]
    for text, where in zip(changed, ("steps", r"images\[5\].steps"), strict=True):
        record.write_text(text, encoding="utf-8")
        line = undiffuse.rejected("compare", out, "digits")
        assert re.search(rf"samples.json: changed after it was written \({where}: 2 -> 3\)", line), line
    record.write_text(valid.replace('"checksum"', '"checksun"'), encoding="utf-8")
    assert "samples.json: changed" in undiffuse.rejected("data", "info", out)
    assert "skipped" in undiffuse.fine("data", "info", out, "data.on_error=skip").out
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(out.iterdir()):
            archive.write(path, f"made/{path.name}")
    assert "set.zip!made/samples.json: changed" in undiffuse.rejected("data", "info", tmp_path / "set.zip")
    packed = tmp_path / "set.tar"
    _pack(out, packed)
    assert "set.tar!made/samples.json: changed" in undiffuse.rejected("data", "info", packed)
    assert "skipped" in undiffuse.fine("data", "info", packed, "data.on_error=skip").out
    record.write_text(valid, encoding="utf-8")
    _pack(out, packed)
    dataset = load_dataset(source_config_for(str(packed)))
    assert len(dataset) == 6 and "2 sample grids" in dataset.provenance["passed_over"]
    record.write_text('{"images": [], "by": "somebody else"}', encoding="utf-8")
    assert len(load_dataset(source_config_for(str(out)))) == 6  # of before checksums


def _pack(folder: Path, shard: Path) -> None:
    """As ``tar cf`` does it, with ``./`` before the names and the record among the images."""
    with tarfile.open(shard, "w") as archive:
        for path in sorted(folder.iterdir(), key=lambda path: path.name[::-1]):
            archive.add(path, f"./made/{path.name}")


def test_another_request_begins_again_and_reports_what_lies_there(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("sample", trained, "-n", 6, "--batch-size", 3, "--out", tmp_path / "out", "--steps")
    stop = Interrupted(monkeypatch)
    assert undiffuse(*common, 2).code == 130
    stop.stops = False
    done = undiffuse.fine(*common, 1)
    assert "unfinished samples of another request are in" in done.err and "are there" not in done.out
    assert stop.numbers == [0, 1, 2, *range(6)] and len(partials(tmp_path)) == 1
    undiffuse.fine(*common, 2, "--overwrite")
    assert not partials(tmp_path)


def test_what_cannot_be_served_leaves_nothing(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    for wrong in (("--sampler", "heunn"), ("--shown", 0), ("--batch-size", 0)):
        undiffuse.rejected("sample", trained, "-n", 2, *wrong, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_grid_is_of_the_first_so_many(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    common = ("sample", trained, "--steps", 1, "--out")
    undiffuse.fine(*common, tmp_path / "many", "-n", 9, "--shown", 4)
    undiffuse.fine(*common, tmp_path / "few", "-n", 4)
    assert (tmp_path / "many" / "grid.png").read_bytes() == (tmp_path / "few" / "grid.png").read_bytes()
    with Image.open(tmp_path / "few" / "grid.png") as grid:
        assert grid.size == (195, 195)  # 2 x 2 images of 96 pixels with gaps of 1, each of theirs a square of 12
        shown = np.asarray(grid)[1:97, 1:97]
    with Image.open(tmp_path / "few" / "000000.png") as image:
        assert image.size == (8, 8) and np.array_equal(shown, np.asarray(image).repeat(12, 0).repeat(12, 1))


@pytest.mark.parametrize(("side", "factor"), [(8, 12), (28, 3), (32, 3), (48, 2), (64, 2), (96, 1), (256, 1)])
def test_images_of_a_grid_are_large_enough_to_see(side: int, factor: int) -> None:
    grid = image_of(np.zeros((4, 3, side, side), dtype=np.uint8), smallest_side=SHOWN_SIDE)
    assert grid.shape == (3, *2 * [2 * side * factor + 3])


def test_progressive_of_more_than_memory_should_hold_is_rejected(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_MOST_HISTORY", 64 * 10)
    common = ("sample", trained, "--steps", 2, "--progressive", "--out", tmp_path / "out", "-n")
    assert "ask for 5 at most (-n)" in undiffuse.rejected(*common, 6)
    assert not list(tmp_path.iterdir())
    undiffuse.fine(*common, 5)


@pytest.mark.parametrize("points", [False, True])
def test_a_record_written_row_by_row_is_the_whole_one(points: bool, tmp_path: Path) -> None:
    shared = {"model": 'a "images": [] ä\n', "guidance": 1.5, "interval": None, "zoom": [1, 2.0]}
    requested = shared, range(7, 10), [Prompt("none"), Prompt(), Prompt('x"y', "a")], points
    write_record(tmp_path / "samples.json", *requested)
    written = (tmp_path / "samples.json").read_text(encoding="utf-8")
    assert written == json_text(with_checksum(full_record(*requested)))
    assert not is_modified(read_checked(tmp_path / "samples.json", ""))


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    common = ("sample", trained, "-n", 4000, "--steps", 2, "--batch-size", 50, "--out")
    undiffuse.fine(*common, tmp_path / "whole")
    for number in range(3):
        process = child(tmp_path / "log", *common, tmp_path / "out")
        before = sum(len(list(folder.iterdir())) for folder in partials(tmp_path))
        while process.is_alive() and sum(len(list(f.iterdir())) for f in partials(tmp_path)) < before + 400:
            time.sleep(0.01)
        assert process.is_alive(), (number, (tmp_path / "log").read_text())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    undiffuse.fine(*common, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole") and not partials(tmp_path)
