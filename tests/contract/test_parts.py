"""A model with a frozen part, as a stranger would write it: trained, averaged, saved and opened with the part once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from undiffuse.api.exporting import export
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.data.config.points import SwissrollConfig
from undiffuse.data.load import load_dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.generalisation_gap import generalisation_gap
from undiffuse.models import MODEL_CONFIGS
from undiffuse.models.base import Batching, OneStepGenerator
from undiffuse.models.config import ModelConfig
from undiffuse.models.files import int8
from undiffuse.models.files.components import components_of
from undiffuse.models.files.int8 import as_int8
from undiffuse.models.files.parts import load_parts, shapes_of_parts
from undiffuse.models.files.record import read_record
from undiffuse.models.files.weights import read_header, read_weights, save_weights
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.part import Part
from undiffuse.models.parts import averaged_copy, freeze_parts, model_state
from undiffuse.models.saved import load
from undiffuse.models.stages import GeneratorStage
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.plan import Plan
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer
from undiffuse.training.validation import validation_loss


class ShiftedConfig(ModelConfig):
    """A frozen codec and a map that learns."""

    name: Literal["shifted"] = "shifted"

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> Shifted:
        return Shifted()


class Shifted(OneStepGenerator):
    parts = MappingProxyType({"codec": Part(source="a paper")})

    def __init__(self) -> None:
        super().__init__()
        self.space, self.class_names = Space.of_data((2,)), ()
        self.conditioner = LabelConditioner(ConditionSpec())
        self.codec = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))  # frozen by whoever trains the model
        self.learns = nn.Linear(2, 2)

    def latents(self, seeds: Sequence[int]) -> Tensor:
        return SeededNoise(seeds).prior(torch.empty(len(seeds), 2))

    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        out: Tensor = self.codec(self.learns(latents))
        return out.detach()

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        return Plan((GeneratorStage(self.space, self.latents, self.decode),))


class ShiftConfig(ObjectiveConfig):
    name: Literal["shift"] = "shift"

    def component(self) -> ShiftedConfig:
        return ShiftedConfig()

    def around(self, model: Any) -> Shift:
        return Shift(model)


class Shift(Objective[Shifted]):
    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        rows = (self.model.codec(self.model.learns(batch.x_0)) - batch.x_0).square().mean(1)
        return LossReport(rows.mean(), rows.detach())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(MODEL_CONFIGS, "shifted", ShiftedConfig)  # type: ignore[arg-type]
    trainer = trainer_of(tmp_path / "run")
    assert trainer.run()
    return trainer.folder


def trainer_of(folder: Path) -> Trainer:
    data = SwissrollConfig(num_points=64)
    counts = {"num_images": 64, "batch_images": 16, "checkpoint_every_images": 32, "validation_images": 8}
    config = RunConfig(recipe="shift", data=data, system=ShiftConfig(), **counts, preview_every_images=0)  # type: ignore[arg-type]
    points = load_dataset(data)
    return Trainer(config, points, points, folder)


def test_the_average_shares_what_no_average_is_taken_of() -> None:
    model = Shifted()
    average = averaged_copy(model)
    assert average.codec is model.codec and average.learns is not model.learns
    assert not average.training and model.training and not any(p.requires_grad for p in average.parameters())
    assert model.learns.weight.requires_grad


def test_a_part_stays_as_it_was_created(run: Path) -> None:
    """No optimizer moves it, no training mode changes its statistics, whoever forgot to freeze it."""
    trainer = trainer_of(run.parent / "again")
    before = {name: value.clone() for name, value in trainer.objective.model.codec.state_dict().items()}
    assert trainer.run()
    model = trainer.objective.model
    assert model.training and not model.codec.training and not any(p.requires_grad for p in model.codec.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.codec.state_dict().items())
    again = load(run.parent / "again").module.get_submodule("codec").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.items())


@pytest.mark.parametrize("name", ["model", "raw", "no such", "absent"])
def test_a_part_s_name_is_an_attribute_s_and_not_taken(name: str) -> None:
    class Odd(Shifted):
        parts = MappingProxyType({name: Part()})

    with pytest.raises(UsageError, match="the name of a part must be an attribute"):
        freeze_parts(Odd())


def test_what_names_a_piece_of_the_model_saves_it_no_second_time() -> None:
    objective = Shift(Shifted())
    objective.piece = objective.model.learns
    objective.own = nn.Linear(1, 1)
    assert set(objective.state()) == {"own.weight", "own.bias"}
    with pytest.raises(UsageError, match=r"2 lacking, such as own\.bias; 1 unknown, such as other"):
        objective.load_state({"other": torch.zeros(1)})


def test_tied_weights_are_saved_apart(tmp_path: Path) -> None:
    weight = torch.arange(4.0)
    save_weights(tmp_path / "w.safetensors", {"a": weight, "b": weight})
    found = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(found["a"], weight) and torch.equal(found["b"], weight)


def test_no_component_makes_package_for_a_larger_network(run: Path) -> None:
    record = read_record(run)
    del record["components"]["codec"]
    record["components"] |= {f"ghost{n}": {"weights": "model.safetensors"} for n in range(40)}
    assert shapes_of_parts(record, run) == []
    record["components"] |= {f"ghost{n}": {"weights": "model.safetensors"} for n in range(100)}
    with pytest.raises(UsageError, match=r"lacks components\.model"):
        components_of(record)


def test_an_unknown_component_is_rejected(run: Path) -> None:
    record = {key: value for key, value in read_record(run).items() if key != "checksum"}
    record["components"]["ghost"] = {"weights": "codec.safetensors", "sha256": 64 * "0"}
    with pytest.raises(UsageError, match="names the component 'ghost', which this model does not have"):
        load_parts(Shifted(), record, run)


def test_an_objective_leaves_its_model_in_the_mode_it_is_in() -> None:
    """A loss that is asked of a loaded model must not let its dropout loose on whatever is measured next."""
    points = load_dataset(SwissrollConfig(num_points=64))
    for model in (Shifted().eval(), Shifted()):
        before = model.training
        generalisation_gap(Shift(model), points, points, seed=0)
        validation_loss(Shift(model), points, 8, 0, torch.device("cpu"))
        assert model.training is before and Shift(model).training is before


def test_a_frozen_part_is_stored_once_and_comes_back(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    entry = record["components"]["codec"]
    assert entry["source"] == "a paper" and entry["weights"] == "codec.safetensors" and entry["config"] is None
    opened, again = load(run).module, load(run, weights="raw").module
    codec, other = opened.get_submodule("codec"), again.get_submodule("codec")
    assert torch.equal(codec[0].weight, other[0].weight)  # type: ignore[arg-type]
    fresh = trainer_of(run.parent / "other").objective.model
    assert torch.equal(codec[0].weight, fresh.codec[0].weight)  # as it was drawn, since it never moved
    names = {path.name for path in run.iterdir()}
    assert "codec.safetensors" in names and not list(run.glob("checkpoints/*/codec*"))
    from safetensors import safe_open

    (checkpoint, *_) = sorted(run.glob("checkpoints/*/state.safetensors"))
    with safe_open(checkpoint, "pt") as file:
        assert not [name for name in file.keys() if "codec" in name]  # noqa: SIM118
    with safe_open(run / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {"learns.weight", "learns.bias"}


def test_a_resumed_run_has_the_part_it_was_started_with(run: Path) -> None:
    for newest in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(newest)
    trainer = trainer_of(run)
    with torch.no_grad():
        trainer.objective.model.codec[0].weight.zero_()
    kept = load(run).module.get_submodule("codec.0").weight
    assert trainer.resume() and torch.equal(trainer.objective.model.codec[0].weight, kept)  # type: ignore[arg-type]
    assert trainer.ema.average.codec is trainer.objective.model.codec


def test_an_exported_model_takes_its_parts_along(run: Path, tmp_path: Path) -> None:
    out = export(load(run), tmp_path / "exported")
    half = export(load(run), tmp_path / "half", bf16=True)
    assert read_weights(half / "codec.safetensors")["0.weight"].dtype == torch.bfloat16
    assert load(half).module.get_parameter("codec.0.weight").dtype == torch.float32
    export(load(run), half, overwrite=True)
    assert (out / "codec.safetensors").read_bytes() == (run / "codec.safetensors").read_bytes()
    one, other = (load(folder).module.state_dict() for folder in (run, out))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_parts_are_kept_in_int8_too(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SMALLEST", 4)
    out = export(load(run), tmp_path / "exported", int8=True)
    before, after = (load(folder).module.state_dict() for folder in (run, out))
    for file, name in (("model.safetensors", "learns.weight"), ("codec.safetensors", "0.weight")):
        assert read_header(out / file).format == "int8_per_channel"
        inside, own = load_file(out / file), name if file == "model.safetensors" else f"codec.{name}"
        assert inside[f"{name}.int8"].dtype == torch.int8 and after[own].dtype == torch.float32
        assert bool(((after[own] - before[own]).abs() <= inside[f"{name}.scale"][:, None] / 2 * (1 + 1e-6)).all())
    assert load_file(out / "codec.safetensors")["1.running_mean"].dtype == torch.float32
    assert load_file(out / "codec.safetensors")["1.weight"].dtype == torch.bfloat16


def test_a_run_is_resumed_over_weights_in_int8(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on from its checkpoint, which keeps every bit, and writes numbers again."""
    monkeypatch.setattr(int8, "SMALLEST", 4)
    valid = (run / "model.safetensors").read_bytes()
    module, record = load(run).module, read_record(run)
    save_weights(run / "model.safetensors", as_int8(module, model_state(module)), record)
    assert read_header(run / "model.safetensors").config is not None
    assert (run / "model.safetensors").read_bytes() != valid and load(run).module.class_names == ()
    for newest in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(newest)
    trainer = trainer_of(run)
    assert trainer.resume() and trainer.run()
    assert (run / "model.safetensors").read_bytes() == valid


@pytest.mark.parametrize("harm", ["another", "gone", "cut"])
def test_a_part_that_is_not_the_one_is_rejected(run: Path, harm: str) -> None:
    file = run / "codec.safetensors"
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        save_weights(file, {name: torch.zeros_like(value) for name, value in read_weights(file).items()})
    message = {"another": "its config.json states", "gone": "has no codec.safetensors", "cut": "is damaged"}
    with pytest.raises(UsageError, match=message[harm]):
        load(run)
