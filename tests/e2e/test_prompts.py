"""Prompts as users give them: in Python, on the command line and in files, and in the records of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine, trainer_of

import undiffuse as package
from undiffuse.annotators.scenes.spec import parse
from undiffuse.api.prompt_file import read_prompts
from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.data import ScenesConfig
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.models.prompts import literal, requested_texts
from undiffuse.models.saved import Model
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.training.config import RunConfig

RED, BLUE = "a red circle above a blue square", "a blue circle left of a red square"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "run"
    system = DiffusionConfig(
        network=UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1),
        text=LearnedTextConfig(width=8, num_layers=1, num_heads=1),
        label_dropout=0.1,
    )
    data = ScenesConfig(size=16, sizes=False, counts=False, objects=2, shapes=3, num_scenes=500)
    config = RunConfig(recipe="tiny", data=data, system=system, num_images=64, batch_images=16, preview_every_images=0)
    assert trainer_of(config, folder).run()
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return package.load(run)


def test_a_prompt_for_all_samples_or_several_in_turn(model: Model) -> None:
    one, several = model.sample(2, prompt=RED, steps=2), model.sample(prompt=[RED, BLUE], steps=2)
    assert one.prompts == [RED, RED] and several.prompts == [RED, BLUE] and several.classes == []
    assert torch.equal(one[0], several[0])
    assert model.sample(3, prompt=f"{{{RED}|{BLUE}}}", steps=2).prompts == [RED, BLUE, RED]
    rows = model.sample(2, prompt=RED, negative=[BLUE, ""], guidance=2.0, steps=2).record["images"]
    assert [(row["prompt"], row["negative"]) for row in rows] == [(RED, BLUE), (RED, "")]
    sliced = several[1:]
    assert sliced.prompts == [BLUE] and sliced.record["images"][0]["prompt"] == BLUE  # type: ignore[attr-defined]


def test_without_a_prompt_samples_cycle_through_captions_of_the_data(model: Model) -> None:
    examples = model.example_prompts
    assert 1 < len(examples) <= 64 and all(parse(caption) for caption in examples)
    assert model.sample(3, steps=1).prompts == list(examples[:3])
    empty = model.sample(1, prompt="", steps=2)
    assert empty.prompts == [""] and not torch.equal(empty[0], model.sample(1, steps=2)[0])


def test_texts_that_are_not_texts_are_errors(model: Model) -> None:
    for wrong in (3, [RED, None]):
        with pytest.raises(UsageError, match="must be a text"):
            model.sample(1, prompt=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="without captions, got prompt 'x'"):
        package.sample("mnist-1step", 1, prompt="x")


def test_unknown_and_lost_words_are_said(model: Model) -> None:
    with pytest.warns(UsageWarning) as notes:
        model.sample(1, prompt=f"a zebra {RED} " + "red " * 40, steps=1)
    said = " ".join(str(note.message) for note in notes)
    assert "vocabulary: 'zebra'" in said and "longer than the" in said


def test_the_command_writes_prompts_and_repeats_an_image(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    words = ["--prompt", RED, "--prompt", "a {blue|green} (ring:1.2)", "--negative", BLUE, "--steps", "2"]
    undiffuse.fine("sample", run, *words, "--out", tmp_path / "a")
    rows = json.loads((tmp_path / "a" / "samples.json").read_text())["images"]
    assert [row["prompt"] for row in rows] == [RED, "a blue (ring:1.2)", "a green (ring:1.2)"]
    image = tmp_path / "a" / "000002.png"
    record = package.read_record(image)
    assert (record["prompt"], record["negative"]) == ("a green (ring:1.2)", BLUE)
    repeated = undiffuse.fine("sample", "--from", image, run, "--out", tmp_path / "b").out
    assert "bit for bit" in repeated
    undiffuse.fine("sample", "--from", image, run, "--prompt", RED, "--out", tmp_path / "c")
    varied = package.read_record(tmp_path / "c" / "000000.png")
    assert (varied["prompt"], varied["negative"], varied["seed"]) == (RED, BLUE, record["seed"])


def test_an_interrupted_set_of_other_prompts_is_not_continued(model: Model, tmp_path: Path) -> None:
    package.sample(model, 2, prompt=[RED, BLUE], steps=1, out=tmp_path / "a")
    package.sample(model, 2, prompt=[BLUE, RED], steps=1, out=tmp_path / "b")
    both = [package.read_record(tmp_path / name / "000000.png")["prompt"] for name in "ab"]
    assert both == [RED, BLUE]


@pytest.mark.parametrize(
    ("content", "texts", "negatives"),
    [
        ("a\n\n# b\nc \r\n", ["a", "c"], []),
        ("\ufeffé\n", ["é"], []),
    ],
)
def test_files_of_prompts(content: str, texts: list[str], negatives: list[str], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(content, encoding="utf-8", newline="")
    assert read_prompts(tmp_path / "p.txt") == (texts, negatives)


def test_files_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.JSONL"
    file.write_text('{"prompt": "a", "negative": "b"}\n{"prompt": "c"}\n')
    assert read_prompts(file) == (["a", "c"], ["b", ""])
    for wrong in ("{}", "[1]", '{"prompt": 1}', '{"prompt": "a", "seed": 1}', "a"):
        file.write_text(wrong)
        with pytest.raises(UsageError, match="line 1: expected"):
            read_prompts(file)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--prompt", "a {red|blue"], "without an end"),
        (["--prompt", "a (red:1.3 circle"], "unbalanced"),
        (["--prompt", "a", "--prompt-file", "EMPTY"], "leave one out"),
        (["--prompt-file", "EMPTY"], "no prompts"),
        (["--prompt-file", "absent.txt"], "check the path"),
        (["--negative", "a {b|c"], "without an end"),
    ],
)
def test_errors_on_the_command_line(
    run: Path, words: list[str], part: str, undiffuse: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    given = [str(tmp_path / "empty.txt") if word == "EMPTY" else word for word in words]
    assert part in undiffuse.rejected("sample", run, *given, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_expanded_texts_are_not_expanded_again() -> None:
    texts = requested_texts("\\{a|b\\}")
    assert texts == ["{a|b}"] and requested_texts(literal(texts)) == texts


def test_captions_are_the_prompts_of_an_evaluation(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "evaluation.json"
    options = ("--metrics", "kernel", "--features", "pixels", "--num", 30, "--steps", 1)
    undiffuse.fine("evaluate", run, "--out", out, *options)
    (result,) = json.loads(out.read_text())["results"]
    assert "captions of the training images" in json.dumps(result) and np.isfinite(result["value"])
