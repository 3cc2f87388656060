"""Classes under awkward names: the data's names always win, and "no class" is said in another way."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine
from PIL import Image

import undiffuse as package
from undiffuse.api.configuration.overrides import read_options
from undiffuse.data import load_dataset
from undiffuse.data.config import ArraysConfig, FolderConfig
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.models.classes import requested_classes
from undiffuse.studies.images.denoising_trajectory import DenoisingTrajectoryOptions

NAMES = (" sp ", "3", "a, b", "all", "auto", "cat", "none", "null")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with such classes."""
    folder = tmp_path_factory.mktemp("awkward") / "data"
    for number, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            level = np.full((8, 8), 20 * number + index, dtype=np.uint8)
            Image.fromarray(level).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model(awkward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of them, hardly trained."""
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import train_run

    out = tmp_path_factory.mktemp("awkward") / "run"
    options = [*TINY, "num_images=16", "validate_every_images=0"]
    assert train_run(configure("ddpm-digits", options, str(awkward), out, False), out, device="cpu")
    return out


def classes(out: Path) -> list[str | None]:
    return [row["class"] for row in json.loads((out / "samples.json").read_text())["images"]]


def test_a_class_is_drawn_by_its_own_name_whatever_that_is(model: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    loaded = package.load(model)
    assert loaded.class_names == NAMES
    for name in NAMES:
        cond = loaded.condition(loaded.classes_of(name, 1))
        assert cond is not None and cond.label is not None
        assert cond.label.tolist() == [NAMES.index(name)]
    undiffuse.fine("sample", model, "-n", 3, "--steps", 1, "--class", "none", "--class", "3", "--out", tmp_path / "a")
    assert classes(tmp_path / "a") == ["none", "3", "none"]
    undiffuse.fine("sample", model, "-n", 8, "--steps", 1, "--out", tmp_path / "turn")
    assert classes(tmp_path / "turn") == list(NAMES)


def test_no_class_is_requested_for_with_the_names(model: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    loaded = package.load(model)
    cond = loaded.condition(loaded.classes_of([3, None, "none"], 4))
    assert cond is not None and cond.label is not None
    assert cond.label.tolist() == [1, -1, 6, 1]
    done = undiffuse.fine(
        "sample", model, "-n", 3, "--steps", 1, "--class", "cat", "--no-class", "--out", tmp_path / "a"
    )
    assert classes(tmp_path / "a") == ["cat", None, "cat"] and not done.err


def test_the_old_word_still_requests_for_no_class_where_no_class_has_it(
    trained: Path, trained_bf16: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    said = undiffuse.fine("sample", trained, "-n", 2, "--steps", 1, "--class", "none", "--out", tmp_path / "a")
    assert classes(tmp_path / "a") == [None, None]
    assert said.complaint.startswith("note: this model has no class 'none'") and "--no-class" in said.complaint
    with pytest.warns(UsageWarning, match="class_name="):
        assert requested_classes("none", ["a"]) == [None]
    with pytest.raises(UsageError, match=r"did you mean 'None'\? .*--no-class"):
        requested_classes("none", ["None", "a"])
    assert package.load(trained_bf16).classes_of([None], 3) == []  # a model without classes


@pytest.mark.parametrize(
    ("asked", "message"),
    [("CAT", "did you mean 'cat'"), (4, "unknown class '4'"), (True, "unknown class 'True'"), (3.0, "'3.0'")],
)
def test_what_is_no_class_is_rejected_with_the_nearest(asked: object, message: str) -> None:
    with warnings.catch_warnings(), pytest.raises(UsageError, match=message):
        warnings.simplefilter("error")
        requested_classes([asked], NAMES)  # type: ignore[list-item]


def test_numbers_of_numpy_and_torch_are_names_too() -> None:
    names = [str(digit) for digit in range(10)]
    for asked in (np.int64(7), torch.tensor(7), np.array([7]), torch.tensor([7]), iter(["7"])):
        assert requested_classes(asked, names) == ["7"]


def test_options_of_a_study_take_a_class_as_it_is_written() -> None:
    for text, name in (("null", "null"), ("3", "3"), ("1.50", "1.50"), ('"3"', "3"), ("true", "true"), ("[a", "[a")):
        assert read_options(DenoisingTrajectoryOptions, [f"class_name={text}"], "study").requested == name
    assert read_options(DenoisingTrajectoryOptions, ["no_class=true"], "study").requested == [None]
    with pytest.raises(UsageError, match="exclude each other"):
        read_options(DenoisingTrajectoryOptions, ["no_class=true", "class_name=3"], "study")


def test_classes_to_keep_may_hold_commas_and_spaces(awkward: Path) -> None:
    chosen = load_dataset(FolderConfig(path=str(awkward), classes='["a, b", " sp "]'))  # type: ignore[arg-type]
    assert chosen.class_names == (" sp ", "a, b")
    assert FolderConfig(path="x", classes="3, cat").classes == ("3", "cat")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in JSON a name may hold commas"):
        load_dataset(FolderConfig(path=str(awkward), classes="a, b"))  # type: ignore[arg-type]


def test_an_array_called_none_holds_the_labels(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 8, 8), dtype=np.uint8), np.array([0, 1, 1])
    np.savez(tmp_path / "a.npz", images=images, none=labels)
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    assert load_dataset(ArraysConfig(path=str(tmp_path / "a.npz"), labels="none")).num_classes == 2
    assert load_dataset(ArraysConfig(path=str(tmp_path / "b.npz"), labels="none")).num_classes == 0


def test_of_two_classes_of_one_name_both_can_be_requested_for() -> None:
    items = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
    dataset = ArrayDataset("test", items, np.array([0, 1, 2]), ["a", "a", "a (2)"], {})
    assert dataset.class_names == ("a", "a (2)", "a (2) (2)")
