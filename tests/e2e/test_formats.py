"""Folders of the first format open and resume bit for bit: what stood among a model's weights is training's now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import TINY, CommandLine, last_checkpoint, log_rows_of, run_until, state_of, trainer_of
from safetensors.torch import load_file, save_file

import undiffuse as package
from undiffuse.api.configuration.runs import configure
from undiffuse.checksums import checksum_of, with_checksum
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.files.components import components_of
from undiffuse.models.files.record import read_record, result_record
from undiffuse.models.files.weights import save_weights
from undiffuse.objectives.from_model import objective_of
from undiffuse.training.config import RunConfig

#: Six steps, of which three come before.
SHORT = (*TINY, "num_images=96", "validate_every_images=64")

#: Runs of all systems that had more among their weights than the model, and of one that had not.
RUNS: dict[str, tuple[str, ...]] = {
    "a guide": ("ddpm-digits", *SHORT, "system.guide_images=40"),
    "importance draws": (
        *("ddpm-digits", *SHORT, "system.process=ddpm_cosine", "system.process.num_steps=4"),
        *("system.learned_variance=true", "system.objective=hybrid", "system.time_draws=importance"),
    ),
    "consistency": (
        *("ct-mnist", *SHORT, "system.network.multipliers=[1,2]", "system.network.attention_levels=[]"),
        *("system.first_knots=2", "system.last_knots=8", "system.doubling_images=40"),
    ),
    "adaptive augmentation": (
        *("dcgan-mnist", *TINY[1:], "system.generator.channels=4", "system.discriminator.channels=4"),
        *("system.augment=document", 'system.adaptive={"speed_images": 300, "target": -0.5}'),
    ),
}


def config_of(name: str) -> RunConfig:
    recipe, *overrides = RUNS[name]
    return configure(recipe, overrides, None if recipe.endswith("digits") else "digits", None, False)


def as_format_1(run: Path) -> None:
    """Write a run as the first format had it: its tensors where they lay, no components, version 1 throughout."""
    record = {key: value for key, value in read_record(run).items() if key not in ("components", "checksum")}
    record["format_version"] = 1
    (run / "config.json").write_text(json.dumps(with_checksum(record)))
    for checkpoint in (run / "checkpoints").iterdir():
        tensors = load_file(checkpoint / "state.safetensors")
        moved: dict[str, torch.Tensor] = {}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            if part == "training" and rest.split(".")[0] in ("importance", "seen", "augment"):
                moved |= {f"model.{rest}": value, f"ema.{rest}": value.clone()}
            else:
                moved[name] = value
        save_file(moved, checkpoint / "state.safetensors")
        state = json.loads((checkpoint / "state.json").read_text())
        state |= {"format_version": 1, "sha256": {"state.safetensors": sha256_of(checkpoint / "state.safetensors")}}
        state |= {"config": result_record(record), "config_sha256": checksum_of(result_record(record))}
        state.pop("checksum")
        (checkpoint / "state.json").write_text(json.dumps(with_checksum(state)))
    for file, part in (("model.safetensors", "ema"), ("raw.safetensors", "model")):
        newest = load_file(last_checkpoint(run) / "state.safetensors")
        own = {name.removeprefix(f"{part}."): value for name, value in newest.items() if name.startswith(f"{part}.")}
        save_weights(run / file, own, record)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_first_format_resumes_and_opens(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    assert trainer_of(config, tmp_path / "whole").run()
    run_until(config, tmp_path / "parts", config.num_images // 2)
    as_format_1(tmp_path / "parts")
    opened = package.load(tmp_path / "parts", "cpu")
    assert opened.config["format_version"] == 1
    trainer = trainer_of(config, tmp_path / "parts")
    assert trainer.resume() and trainer.run()
    assert read_record(tmp_path / "parts")["format_version"] == 1, "it is as it was written"
    one, other = (state_of(tmp_path / each) for each in ("whole", "parts"))
    assert one.keys() == other.keys() and not [key for key in one if not torch.equal(one[key], other[key])]
    assert log_rows_of(tmp_path / "whole") == log_rows_of(tmp_path / "parts")
    whole, parts = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a tiny trained run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edited(run: Path, place: tuple[str, ...], value: Any) -> None:
    record = json.loads((run / "config.json").read_text())
    section = record
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = value
    (run / "config.json").write_text(json.dumps(record))


_SAMPLING = {
    "config.system": ("config", "system", "sampling", "temperature"),
    "components.model.config": ("components", "model", "config", "sampling", "temperature"),
}


def temperatures(run: Path) -> list[float]:
    record = json.loads((run / "config.json").read_text())
    found = []
    for place in _SAMPLING.values():
        section = record
        for name in place:
            section = section[name]
        found.append(section)
    return found  # type: ignore[return-value]


def test_an_edit_of_the_training_s_part_is_followed_there_and_back(run: Path, undiffuse: CommandLine) -> None:
    for value in (0.5, 1.0, 0.7):
        edited(run, _SAMPLING["config.system"], value)
        assert "follows config.system: sampling.temperature" in undiffuse.fine("seal", run).out
        assert temperatures(run) == [value, value]
        assert package.load(run, "cpu").module.sampling_record().get("temperature", 1.0) == value


def test_an_edit_of_the_model_s_part_alone_is_undone_and_reported(run: Path, undiffuse: CommandLine) -> None:
    edited(run, _SAMPLING["components.model.config"], 0.5)
    out = undiffuse.fine("seal", run).out
    assert "follows config.system: sampling.temperature: 0.5 -> 1.0" in out and temperatures(run) == [1.0, 1.0]


def test_two_places_that_differ_are_not_opened(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    record["components"]["model"]["config"]["sampling"]["temperature"] = 0.5
    with pytest.raises(UsageError, match=r"sampling\.temperature: 1\.0 -> 0\.5.*make them the same"):
        components_of(record)
    (run / "config.json").write_text(
        json.dumps(with_checksum({key: record[key] for key in record if key != "checksum"}))
    )
    with pytest.raises(UsageError, match=r"was changed after|make them the same"):
        package.load(run, "cpu")


def test_options_that_the_model_calls_otherwise_are_followed_too(run: Path, undiffuse: CommandLine) -> None:
    edited(run, ("config", "system", "time_density"), {"name": "logit_normal", "mean": 0.5, "std": 1.0})
    undiffuse.fine("seal", run)
    model = package.load(run, "cpu")
    assert objective_of(model) is not None
    assert model.config["components"]["model"]["config"]["trained_density"]["mean"] == 0.5


@pytest.mark.parametrize("system", [[1], None, {"name": "rectified"}, {"name": "diffusion", "network": None}])
def test_a_training_s_part_that_makes_no_sense_is_not_sealed(system: Any, run: Path, undiffuse: CommandLine) -> None:
    edited(run, ("config", "system"), system)
    before = (run / "config.json").read_bytes()
    undiffuse.rejected("seal", run)
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "lacks components.model"),
        ({"model": {"weights": "../model.safetensors", "config": {"name": "denoising"}}}, "weights"),
        ({"model": {"weights": "model.safetensors", "config": None}}, "must have a config"),
        ({"model": {"weights": "other.safetensors", "config": {}}}, "must have a config and the weights model.safe"),
        ({"model": {"weights": "model.safetensors", "config": {}, "sha256": 64 * "0"}}, "must have a config"),
        ({"model": {"weights": "model.safetensors", "config": {}}, "../x": {}}, "must be an identifier"),
        ({"model": {"weights": "model.safetensors", "code": "x"}}, "no key 'code'"),
    ],
)
def test_components_that_make_no_sense_are_one_line(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        components_of({"format_version": 2, "config": {"system": {"name": "diffusion"}}, "components": broken})
