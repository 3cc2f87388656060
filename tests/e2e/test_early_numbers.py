"""Numbers out of range, options at odds and places that are taken are said before seconds of importing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from undiffuse.cli.checks import commands as checks
from undiffuse.cli.checks import lines
from undiffuse.cli.checks.commands import CHECKS, check_line
from undiffuse.cli.main import app
from undiffuse.errors import UsageError
from undiffuse.evaluation import Protocol

#: A sound line of each command that takes numbers; ``run`` is a folder with a ``config.json``.
INTACT = {
    "distill": "distill mnist",
    "export": "export mnist --out new --tune-steps 10",
    "ema": "ema run --out new --sigma-rel 0.1",
    "sample": "sample mnist",
    "evaluate": "evaluate mnist",
    "compare": "compare digits digits",
    "invert": "invert mnist digits --out new --sampler heun",
    "doctor": "doctor mnist",
    "data prepare": "data prepare digits --out new.zip",
    "study theory": "study theory exact:rings",
    "study parameterization": "study parameterization",
    "study one-class": "study one-class --data digits",
    "study small-data": "study small-data --data digits",
}


def numbers() -> list[tuple[str, str]]:
    """Commands and their options that take a number, harvested from the table of command lines."""
    table = json.loads(Path(lines.__file__).with_name("command_lines.json").read_text())
    return [
        (command, option)
        for command, row in table.items()
        for option, one in row["options"].items()
        if one["type"] in ("int", "float")
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run that has come to something, samples, a study, and what is none of these."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/config.json", "run/checkpoints/one", "samples/samples.json", "other/note.txt", "file", "set.zip"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name in ("samples/000000.png", "mixed/samples.json", "mixed/note.txt", "study/study.json", "study/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def intact_line(command: str) -> str:
    return INTACT.get(command) or f"{command} mnist"  # studies of a model


def test_every_command_is_requested_as_the_parser_hands_it_over() -> None:
    """Right value: sound lines pass with every default that the parser fills in."""
    more = {"train": "train ddpm-digits", "report": "report run", "models": "models", "demo": "demo"}
    more |= {"data info": "data info digits", "data get": "data get mnist", "seal": "seal mnist"}
    for name in CHECKS:
        words = {**INTACT, **more}.get(name, f"{name} mnist").split()
        command, depth = typer.main.get_command(app), len(name.split())
        for word in words[:depth]:
            command = command.commands[word]  # type: ignore[attr-defined]
        context = command.make_context(name, words[depth:])
        checks._check(name, context.params)


def test_there_are_as_many_numbers_as_there_were() -> None:
    """Right value: counted by hand; whoever adds one raises it and finds the test below waiting."""
    assert len(numbers()) >= 45


@pytest.mark.parametrize(("command", "option"), numbers())
def test_every_number_has_a_range(command: str, option: str) -> None:
    line = intact_line(command)
    check_line(line.split())
    with pytest.raises(UsageError, match=r"-1|--near is for data"):
        check_line([*line.split(), option, "-1"])


@pytest.mark.parametrize("name", ["num", "batch_size", "bound_images", "bound_random_images", "likelihood_images"])
def test_an_evaluation_is_rejected_in_the_words_of_its_protocol(name: str) -> None:
    with pytest.raises(UsageError) as late:
        Protocol(**{name: 0})
    with pytest.raises(UsageError) as early:
        check_line(["evaluate", "mnist", f"--{name.replace('_', '-')}=0"])
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample mnist -n 0", "the number of samples must be at least 1"),
        ("sample mnist --seed 18446744073709551615 -n 2", "2**64 - 1"),
        ("sample mnist --shown 0", "a grid needs at least 1 image, got 0"),
        ("distill mnist --steps 3", "one of 1, 2, 4, 8"),
        ("export mnist --out new --tune-steps 10 --tolerance nan", "above 0, got nan"),
        ("ema run --out new --sigma-rel 0.3", "at most 0.2887, got 0.3"),
        ("invert mnist digits --out new --steps 3", "leave --steps out"),
        ("doctor digits --near 1", "between 0 and 1"),
        ("doctor digits --num 3", "--num is for runs"),
        ("doctor mnist --near 0.1", "--near is for data"),
        ("data prepare digits --out new.zip --workers 2000", "1..1024"),
        ("study theory exact:rings --num 49", "at least 50"),
        ("study theory mnist --process ve", "exact:NAME"),
        ("study one-class --data digits --num 1", "at least 2"),
        ("study one-class --data digits --seed 9223372036854775808", "2**63 - 1"),
        ("evaluate mnist data.on_error=skip", "add --data SRC"),
        ("data info digits --augment flip", "add --grid FILE"),
        ("sample mnist --autoguidance 2", "needs a model with a guide"),
        ("study sweep mnist samplers=heun,hune", "unknown sampler 'hune'"),
        ("study sweep mnist features=inceptoin", "inception"),
        ("study small-data --data digits --augment augment.foo=3", "'foo'"),
        ("train", "name your images with --data"),
        ("train --resume", "name your images with --data"),
        ("train ddpm-digits --resume", "--resume needs --out DIR"),
        ("train ddpm-digits --config run", "the recipe 'ddpm-digits'"),
        ("train --config nowhere.json", "cannot be read"),
        ("train --config run", "is no JSON"),
        # of data, where pydantic has the words
        ("compare digits digits --size 0", "'size'"),
        ("compare digits digits size_=3", "did you mean 'size'"),
        ("invert mnist digits size=-1 --out new", "'size'"),
        ("evaluate mnist --data digits size=-1", "'size'"),
        ("doctor digits size=-1", "'size'"),
        ("data prepare digits --out new.zip --size 0", "'size'"),
        ("data prepare digits --out new.zip --channels 2", "1 or 3"),
        ("data prepare digits --out new.zip --fit tile", "letterbox"),
        ("data prepare digits --out new.zip --filter min_side=-1", "min_side"),
        ("data prepare digits --out new.zip --on-error pass", "'skip'"),
    ],
)
def test_what_is_out_of_range_or_does_not_go_together_is_reported_at_once(line: str, words: str) -> None:
    with pytest.raises(UsageError) as message:
        check_line(line.split())
    assert words in str(message.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample mnist --out other", "something other than samples (note.txt)"),
        ("sample mnist --out mixed --overwrite", "more than samples (note.txt)"),
        ("invert mnist digits --out other", "something other than latents"),
        ("export mnist --out other", "something other than an exported model"),
        ("export run --out run --overwrite", "more than an exported model (checkpoints)"),
        ("ema run --out other --sigma-rel 0.1", "something other than an exported model"),
        ("study sweep mnist --out other", "something other than a study"),
        ("study parameterization --out other", "something other than this study"),
        ("study one-class --data digits --out file", "is a file"),
        ("study small-data --data digits --out other", "something other than this study"),
        ("evaluate mnist --out other", "name a file such as other/evaluation.json"),
        ("compare digits digits --out other", "name a file such as other/comparison.json"),
        ("report run --out other", "name a file such as other/report.html"),
        ("doctor digits --json other", "name a file such as other/doctor.json"),
        ("doctor digits --json file/inside", "a file is where a folder is needed"),
        ("data prepare digits --out set.zip", "add --overwrite"),
        ("data prepare digits --out other.zip/x", "ending in .zip"),
        ("demo --out other", "holds no run"),
        ("data info digits --grid other", "name a file such as other/grid.png"),
        ("data get mnist --out file", "is a file"),
        ("train --resume --out nowhere", "not a run or model folder"),
        ("report run --study other", "no study.json"),
        ("report run run", "more than once"),
    ],
)
def test_a_place_that_holds_something_else_is_reported_at_once(line: str, words: str) -> None:
    with pytest.raises(UsageError) as message:
        check_line(line.split())
    assert words in str(message.value)


@pytest.mark.parametrize(
    "line",
    [
        "sample mnist -n 1 --seed 18446744073709551615 --batch-size 1 --shown 1 --out samples --overwrite",
        "doctor digits --near 0.5",
        "doctor run --num 1",
        "data prepare digits --out set.zip --overwrite --workers 1024 --channels 3 --filter min_side=4",
        "study sweep mnist --out study",
        "study theory exact:rings --num 50 --process ve",
        "train --resume --out run",
        "train --data digits",
        "compare digits digits --size 4x4 --num 1",
        "export mnist --out new --tolerance 0",  # asked of nobody where no grid is tuned
    ],
)
def test_what_may_be_is_let_be(line: str) -> None:
    check_line(line.split())
