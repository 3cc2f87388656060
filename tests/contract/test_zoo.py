"""Every bundled model: loads, samples what its grid of samples shows, says what it is, and is small enough to ship."""

from __future__ import annotations

import json
import shlex
import zipfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from PIL import Image
from safetensors import safe_open

import undiffuse
from sparse_product import mostly_slow
from undiffuse.api import distilling
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.config import validate
from undiffuse.data.download import SETS
from undiffuse.files import sha256_of
from undiffuse.images import grid_of
from undiffuse.models.files.int8 import int8_names
from undiffuse.models.request import SampleRequest
from undiffuse.recipes import get_recipe
from undiffuse.training.config import RunConfig
from undiffuse.zoo import bundled_models
from undiffuse.zoo.card import ALL_BYTES, MODEL_BYTES, bundled, card_text

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(bundled_models())
FILES = ["config.json", "model.safetensors", "model_card.md", "samples.png"]


def record_of(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundled_models()[name] / "config.json").read_text(encoding="utf-8"))
    return record


def test_there_are_some_and_none_is_too_large() -> None:
    assert "mnist" in NAMES
    sizes = {name: bundled(name).num_bytes for name in NAMES}
    assert max(sizes.values()) <= MODEL_BYTES and sum(sizes.values()) <= ALL_BYTES, sizes


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_what_it_should(name: str) -> None:
    assert sorted(path.name for path in bundled_models()[name].iterdir()) == FILES


@pytest.mark.parametrize("name", mostly_slow(NAMES, "mnist", "flowers"))
def test_it_samples_what_its_grid_shows(name: str) -> None:
    """Sample i depends on seed i and its class, so the grid's first images come again, but for rounding."""
    model = undiffuse.load(name, "cpu")
    columns = len(model.class_names) if 5 <= len(model.class_names) <= 16 else 12
    samples = model.module.sample(SampleRequest.of(seeds=range(4), prompts=model.prompts(4) or None))
    assert samples.x.shape == (4, *bundled(name).shape) and bool(torch.isfinite(samples.x).all())
    assert samples.nfe == bundled(name).card.evaluations
    sampling, card = model.module.sampling_record(), bundled(name).card
    assert (card.sampler, card.grid, card.steps) == (sampling["sampler"], sampling["grid"], sampling["steps"])
    assert card.temperature == sampling.get("temperature", 1.0)
    drawn = model.finish(samples.x).numpy().astype(float)
    shown = grid_images(bundled_models()[name] / "samples.png", drawn.shape[1:], columns)[:4]
    apart = np.abs(drawn - drawn[::-1]).mean()
    assert apart > 5
    assert np.abs(drawn - shown).mean() < 0.1 * apart


def grid_images(path: Path, shape: tuple[int, ...], columns: int) -> np.ndarray[Any, Any]:
    """The top row of a grid of ``grid_of``, (columns, C, H, W)."""
    with Image.open(path) as image:
        pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).astype(float)
    marked = grid_of(np.zeros((columns, *shape), dtype=np.uint8), columns=columns)
    assert marked.shape[0] == pixels.shape[0] and marked.shape[2] == pixels.shape[2]
    cell = (marked.shape[2] - 1) // columns
    factor = (cell - 1) // shape[2]
    tops = [pixels[:, 1 : 1 + factor * shape[1], 1 + cell * i : (i + 1) * cell] for i in range(columns)]
    return np.stack([top[:, ::factor, ::factor] for top in tops])


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_small_and_the_parameters_are_float32(name: str) -> None:
    """Kept as its card says: in bfloat16, or the large weights as integers with a scale per output channel."""
    path = bundled_models()[name] / "model.safetensors"
    model, card = undiffuse.load(name, "cpu"), bundled(name).card
    parameters = dict(model.module.named_parameters())
    large = int8_names(model.module) if card.stored == "int8" else set()
    with safe_open(path, "pt") as file:
        assert (file.metadata() or {}).keys() == {"undiffuse" if large else "sha256_of_tensors"}
        for key, value in parameters.items():
            assert value.dtype == torch.float32
            if key in large:
                integers, scale = file.get_tensor(f"{key}.int8"), file.get_tensor(f"{key}.scale")
                assert integers.dtype == torch.int8 and scale.dtype == torch.float32
                assert torch.equal(integers.float() * scale.view(-1, *[1] * (value.dim() - 1)), value)
            else:
                stored = file.get_tensor(key)
                assert stored.dtype == torch.bfloat16
                assert torch.equal(stored.float(), value)
    assert sum(value.numel() for value in parameters.values()) == card.parameters
    assert sha256_of(path) == card.weights_sha256


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_is_whole_and_names_no_machine(name: str, zoo_tool: ModuleType) -> None:
    record = record_of(name)
    config = validate(RunConfig, record["config"])
    assert zoo_tool.absolute_paths(record) == []
    assert tuple(bundled(name).shape) == tuple(record["model"]["shape"])
    assert bool(bundled(name).class_names) == bool(getattr(config.system, "class_conditional", False))


@pytest.mark.parametrize("name", [name for name in NAMES if "distill" not in bundled(name).card.command])
def test_its_command_gives_its_training_again(name: str) -> None:
    record = record_of(name)
    words = shlex.split(record["card"]["command"].partition(" && ")[0])
    recipe, overrides = words[2], [word for word in words[3:] if "=" in word]
    created_config = validate(RunConfig, record["config"])
    configured = apply_overrides(get_recipe(recipe), overrides)
    resolved = configured.system.completed_from(created_config.system)  # vocabulary and length of a text
    configured = configured.model_copy(update={"system": resolved})
    again, created = (config.model_dump(mode="json") for config in (configured, created_config))
    for config in (again, created):
        config.pop("data")  # where it lies differs
    if "&& undiffuse export" in record["card"]["command"]:  # which has tuned how it samples
        assert again["system"].pop("sampling")["autoguidance"] == created["system"].pop("sampling")["autoguidance"] == 1
    assert again == created


@pytest.mark.parametrize("name", [name for name in NAMES if "distill" in bundled(name).card.command])
def test_the_last_of_its_commands_gives_a_student_s_training_again(name: str) -> None:
    record = record_of(name)
    words = shlex.split(record["card"]["command"].split(" && ")[-1])
    options = {word: value for word, value in pairwise(words) if word.startswith("--")}
    overrides = [word for word in words[3:] if "=" in word]
    again = distilling.configure(words[2], int(options["--steps"]), options["--method"], overrides, None)
    created = validate(RunConfig, record["config"])
    for key in ("optimizer", "ema", "num_images", "batch_images", "recipe"):
        assert getattr(again, key) == getattr(created, key), key
    where = {"teacher", "start"}
    assert again.system.model_dump(exclude=where) == created.system.model_dump(exclude=where)
    assert (created.system.start is not None) == ("--start" in options)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_its_card_is_that_of_its_values(name: str, zoo_tool: ModuleType) -> None:
    found, text = bundled(name), (bundled_models()[name] / "model_card.md").read_text(encoding="utf-8")
    assert text == card_text(name, found.card, record_of(name))
    for one in found.card.sets:
        known = {name: data.licence for name, data in (zoo_tool.COMPUTED | SETS).items()}
        assert known[one.name] == one.licence
    for needed in ("licence of the data", "licence of the weights", found.card.command, f"{found.card.images:,}"):
        assert needed in text


def test_the_pages_list_them_all(zoo_tool: ModuleType) -> None:
    for page, text in zoo_tool.pages().items():
        assert page.read_text(encoding="utf-8") == text, "run: python tools/make_zoo_model.py --tables"
        assert all(f"`{name}`" in text for name in NAMES)


def held_by_the_wheel(tmp_path: Path, whole: bool) -> set[str]:
    """Names in a wheel, or those that it would be packed from."""
    builder = WheelBuilder(str(ROOT))
    if not whole:
        return {file.distribution_path for file in builder.recurse_included_files()}
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_wheel_holds_them_and_the_sources_that_are_compiled(tmp_path: Path, whole: bool) -> None:
    held = held_by_the_wheel(tmp_path, whole)
    assert {f"undiffuse/zoo/{name}/{file}" for name in NAMES for file in FILES} <= held
    assert "undiffuse/compute/native/norm.cpp" in held
    assert not [name for name in held if name.startswith(("tests/", "tools/", "docs/"))]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"path": "/data/x"}, 1),
        ({"a": [{"b": "~/images/x"}]}, 1),
        ({"command": "undiffuse train flow-mnist --data /srv/mnist/train"}, 1),
        ({"path": "data/mnist", "url": "https://example.org/a/b/", "better": "held-out / training"}, 0),
        ({"halves": "1/2", "none": None, "number": 3}, 0),
    ],
)
def test_paths_of_a_machine_are_seen(value: Any, found: int, zoo_tool: ModuleType) -> None:
    assert len(zoo_tool.absolute_paths(value)) == found


def test_paths_are_reduced_to_names(zoo_tool: ModuleType) -> None:
    record = {"config": {"data": {"path": "/srv/sets/mnist"}, "system": {"teacher": {"path": "/runs/a/mnist"}}}}
    clean = zoo_tool.portable_record({**record, "card": {}})
    assert clean == {"config": {"data": {"path": "data/mnist"}, "system": {"teacher": {"path": "mnist"}}}}
    assert zoo_tool.portable_record(record, "data/other")["config"]["data"]["path"] == "data/other"
    assert record["config"]["data"]["path"] == "/srv/sets/mnist"
