"""Advice is followed: a command is refused, or ends with a word on what is next, and what it printed is typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from advice import Message, advice_in
from command_line import CommandLine
from PIL import Image

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe

Words = tuple[object, ...]


def images(folder: Path, count: int = 12, side: int = 8, seed: int = 0, channels: int = 3) -> Path:
    folder.mkdir(parents=True)
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    for number, levels in enumerate(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)):
        Image.fromarray(levels).save(folder / f"{number:02d}.png")
    return folder


def broken(folder: Path) -> Path:
    (images(folder) / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    return folder


def labelled(folder: Path) -> Path:
    (images(folder) / "03.json").write_text('{"caption": "a caption", "label": 1}')
    return folder


def of_two_sizes(root: Path) -> tuple[Path, Path]:
    return images(root / "small"), images(root / "large", side=12, seed=1)


def floats(root: Path) -> Path:
    np.savez(root / "floats.npz", images=np.random.default_rng(0).uniform(-1, 1, (12, 8, 8)).astype(np.float32))
    return root / "floats.npz"


def either_axes(root: Path) -> Path:
    np.savez(root / "axes.npz", images=np.random.default_rng(0).integers(0, 256, (12, 3, 8, 3), np.uint8))
    return root / "axes.npz"


def pairs_in_a_tar(root: Path) -> Path:
    with tarfile.open(root / "two.tar", "w") as tar:
        for path in sorted(images(root / "two").iterdir()):
            for view in ("left", "right"):
                tar.add(path, f"{path.stem}.{view}.png")
    return root / "two.tar"


def tables_without_train(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "set").mkdir()
    content = [path.read_bytes() for path in sorted(images(root / "pngs").iterdir())]
    for split in ("test", "validation"):
        pq.write_table(pa.table({"image": content}), root / "set" / f"{split}-00000-of-00001.parquet")
    return root / "set"


PIXELS = ("--metrics", "kernel", "--features", "pixels")

#: What is typed (made below a folder), and what of the answer is typed after it: groups of one pattern, one by one.
REJECTED: dict[str, tuple[Callable[[Path], Words], str]] = {
    "info broken": (lambda at: ("data", "info", broken(at / "a b")), r"(data\.on_error=skip)"),
    "prepare broken": (
        lambda at: ("data", "prepare", broken(at / "x"), "--out", at / "x.zip"),
        r"(data.on_error=skip)",
    ),
    "compare broken": (lambda at: ("compare", images(at / "y"), broken(at / "x"), *PIXELS), r"(data\.on_error=skip)"),
    "labels": (lambda at: ("data", "info", labelled(at / "x")), r"(data\.labels=none|data\.on_error=skip)"),
    "too small": (
        lambda at: ("data", "info", images(at / "x"), "data.size=64"),
        r"(data\.size=\d+|data\.upscale=true)",
    ),
    "metadata": (lambda at: ("data", "info", images(at / "x"), "data.labels=leaf"), r"(data\.labels=none)"),
    "floats": (lambda at: ("data", "info", floats(at)), r"(data\.levels=-1\.\.1)"),
    "axes": (lambda at: ("data", "info", either_axes(at)), r"(data\.axes=\w+)"),
    "two of a sample": (lambda at: ("data", "info", pairs_in_a_tar(at)), r"(data\.image_column=left\.png)"),
    "no such split": (lambda at: ("data", "info", tables_without_train(at)), r"(data\.split=\w+)"),
    "sizes": (lambda at: ("compare", *of_two_sizes(at), *PIXELS), r"(--size \d+x\d+)"),
    "colours": (
        lambda at: ("compare", images(at / "x"), images(at / "y", channels=1), *PIXELS),
        r"(data\.channels=\d)",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_a_rejection_reports_is_taken(name: str, undiffuse: CommandLine, tmp_path: Path) -> None:
    make, pattern = REJECTED[name]
    call = make(tmp_path)
    line = undiffuse.rejected(*call)
    ways = re.findall(pattern, line)
    assert ways, line
    for number, way in enumerate(ways):
        again = [Path(f"{word}{number}.zip") if str(word).endswith("x.zip") else word for word in call]
        changed = way.partition("=")[0]  # said already, and otherwise
        kept = [word for word in again if not ("=" in way and str(word).startswith(f"{changed}="))]
        undiffuse.fine(*kept, *way.split())


#: Configurations that do not go together: of what the message names, something mends it.
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "flow-mnist": ("random_flip=true", "augment.flip=0.5"),
    "ddpm-digits": ("system.learned_variance=true",),
    "ddpm-mnist": ("system.objective=hybrid",),
    "ddpm-church48": ("system.sampling.sampler=ancestral:variance=learned",),
    "ddpm-cifar10": ("system.sampling.autoguidance=3",),
    "ddpmpp-cifar10": ("system.network.downsample=conv",),
    "edm-mnist": ("system.sampling.sampler=ancestral:variance=learned",),
    "gan-rings": ("system.adaptive={}", "system.objective=wgan"),
    "meanflow-mnist": ("system.parameterization=edm",),
    "progressive-mnist": ("system.sampling.grid=karras",),
}


@pytest.mark.parametrize("recipe", CONFIGURATIONS)
def test_what_a_configuration_is_reported_makes_it_whole(recipe: str) -> None:
    given = CONFIGURATIONS[recipe]
    with pytest.raises(UsageError) as caught:
        apply_overrides(get_recipe(recipe), given)
    found = [advice.words for advice in advice_in(Message("x:1", str(caught.value))) if advice.kind == "pair"]
    pairs = [f"{key}={value}" for key, value in found if f"{key}={value}" not in given]
    tried = []
    for count in (1, 2, 3):
        for chosen in combinations(pairs, count):
            try:
                apply_overrides(get_recipe(recipe), [*given, *chosen])
                return
            except UsageError as error:
                tried.append(f"{chosen}: {error}")
    pytest.fail(f"{caught.value}; tried {tried}")


#: A word of a shell's line, up to what ends a command in prose.
WORD = r"""(?:[^\s'",;)]|'[^']*'|"[^"]*")+"""


def followed(undiffuse: CommandLine, text: str, monkeypatch: pytest.MonkeyPatch, at: Path) -> list[list[str]]:
    """Type every command that a text prints, in a folder of its own; returns what was typed."""
    monkeypatch.chdir(at)
    typed = []
    for part in re.findall(rf"undiffuse((?: {WORD})+)", text):
        words = shlex.split(part)
        if "OTHER" not in words and not any(word.isupper() and len(word) > 2 for word in words):
            undiffuse.fine(*words)
            typed.append(words)
    return typed


def test_a_run_is_reported_from_images_and_the_printed_commands_run(
    undiffuse: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my run; $(touch x)"
    shutil.copytree(trained, run)
    line = undiffuse.rejected("compare", run, "digits")
    text = "undiffuse sample" + line.split("undiffuse sample")[1]
    assert followed(undiffuse, text, monkeypatch, tmp_path) == [["sample", str(run)]]
    assert not (tmp_path / "x").exists() and (tmp_path / "samples").is_dir()


def test_what_stands_in_the_way_is_reported_and_taken(undiffuse: CommandLine, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert "add --resume" in undiffuse.rejected("train", "ddpm-digits", "--out", run)
    undiffuse.fine("train", "--resume", "--out", run)
    draw = ("sample", run, "-n", 1, "--steps", 1, "--out", tmp_path / "s")
    undiffuse.fine(*draw)
    assert "add --overwrite" in undiffuse.rejected(*draw)
    undiffuse.fine(*draw, "--overwrite")


def test_a_key_that_is_written_as_an_option_is_reported_how(undiffuse: CommandLine) -> None:
    for option, key in {"--num_images": "num_images", "--batch-images": "batch_images"}.items():
        assert f"given without dashes: {key}=VALUE" in undiffuse.rejected("train", "ddpm-digits", option, 64)
    assert "without dashes" not in undiffuse.rejected("train", "ddpm-digits", "--nothing", 64)
    assert "without dashes" not in undiffuse.rejected("sample", "mnist", "--num_images", 64)


@pytest.mark.slow
def test_what_commands_print_when_they_are_done_runs(
    undiffuse: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export, prepare, a report's commands: from a folder with blanks and quotes in its name."""
    here = tmp_path / 'it\'s "mine" & yours'
    shutil.copytree(trained, here / "run")
    exported = undiffuse.fine("export", here / "run", "--out", here / "model").out
    prepared = undiffuse.fine("data", "prepare", images(here / "in"), "--out", here / "out.zip").out
    text = f"{exported}\n{prepared}"
    typed = followed(undiffuse, text, monkeypatch, tmp_path)
    assert [words[:2] for words in typed] == [["sample", str(here / "model")], ["data", "info"]]
    undiffuse.fine("train", "--data", here / "out.zip", "--dry-run")
    page = here / "page.html"
    undiffuse.fine("report", here / "run", "--out", page)
    from undiffuse.api.loading import load
    from undiffuse.api.reporting import _commands

    commands = "\n".join(_commands(load(here / "run")).values()).replace("--num 5000", "--num 20")
    ran = followed(undiffuse, commands, monkeypatch, tmp_path)
    assert {words[0] for words in ran} >= {"sample", "evaluate"}


@pytest.mark.slow
def test_a_stopped_training_reports_how_to_go_on(undiffuse: CommandLine, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    call = ("train", "ddpm-digits", "num_images=4000", "system.network.channels=8", "--out", run, "--stop-after", "1s")
    out = undiffuse.fine(*call).out
    (printed,) = re.findall(r"resume with: undiffuse (.*)", out)
    undiffuse.fine(*shlex.split(printed))
    images_seen = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["images"]
    assert images_seen >= 4000
