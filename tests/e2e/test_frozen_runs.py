"""Models with a frozen text encoder: trained, resumed, loaded, fine-tuned and exported without its weights, or with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine, assert_same_run, no_leftovers, trainer_of
from safetensors import safe_open

from tiny_encoders import write_bert
from undiffuse.api.configuration.fine_tuning import fine_tuned
from undiffuse.api.exporting import export
from undiffuse.api.sealing import seal
from undiffuse.api.training import train
from undiffuse.conditioning.prompt import Prompt
from undiffuse.conditioning.text.config import FrozenTextConfig
from undiffuse.conditioning.text.frozen_features import FrozenFeatures
from undiffuse.data import ScenesConfig
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

SCENES = ScenesConfig(size=16, sizes=False, objects=2, shapes=3, num_scenes=200)
PROMPT = Prompt(text="a (red:1.2) circle AND a zebra", negative=Prompt(text="blue"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 4 MB, far larger than the model."""
    return write_bert(tmp_path_factory.mktemp("encoder") / "bert", inner=8_000)


def config_of(encoder: Path, **options: Any) -> RunConfig:
    text = FrozenTextConfig(folder=str(encoder), width=16, num_layers=1, num_heads=2)
    network = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, text_levels=(1,))
    system = DiffusionConfig(network=network, text=text)
    counts = {"num_images": 32, "batch_images": 16, "validation_images": 8, "preview_every_images": 0, **options}
    return RunConfig(recipe="tiny", data=SCENES, system=system, checkpoint_every_images=16, **counts)


@pytest.fixture(scope="module")
def run(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(config_of(encoder), out=folder, device="cpu").finished
    return folder


def samples_of(folder: Path) -> torch.Tensor:
    """Three samples of a model, of a prompt with weights, terms and a negative."""
    request = SampleRequest([0, 1, 2], SamplingOptions(num_steps=2), prompts=[PROMPT, Prompt(), Prompt(text="circle")])
    return load(folder, "cpu").module.sample(request).x


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_run_and_checkpoints_hold_the_encoder_nowhere(run: Path, encoder: Path) -> None:
    weights = (encoder / "model.safetensors").stat().st_size
    assert weights > 3.8e6 and bytes_of(run) < weights
    files = [*run.rglob("*.safetensors")]
    assert len(files) == 4  # averaged and raw weights, two checkpoints
    for file in files:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if "encoder" in name]  # noqa: SIM118
        assert names and all("encoder.transformer" in one or ".norm." in one or ".project." in one for one in names)
    record = json.loads((run / "config.json").read_text())
    entry = record["components"]["text_encoder"]
    text = record["config"]["system"]["text"]
    assert entry == {"config": None, "weights": None, "sha256": text["sha256"], "source": "bert"}
    assert (
        text["folder"] == str(encoder)
        and text["features"] == 32
        and f"bert, SHA-256 {text['sha256']}" in (run / "model_card.md").read_text(encoding="utf-8")
    )


def test_the_average_has_trained_layers_of_its_own_and_the_encoder_is_not_trained(
    encoder: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(config_of(encoder), tmp_path / "run")
    own, averaged = (model.conditioner.encoder for model in (trainer.objective.model, trainer.ema.average))
    before = {name: value.clone() for name, value in own.state_dict().items()}
    for _ in range(3):  # cross-attention starts at zero, so the first step has no gradient
        trainer.trial_step()
    after, average = own.state_dict(), averaged.state_dict()
    assert all(not torch.equal(before[name], value) for name, value in after.items() if "qkv.bias" not in name)
    assert all(not torch.equal(before[name], value) for name, value in average.items() if "qkv.bias" not in name)
    assert averaged.frozen is own.frozen
    frozen = {id(parameter) for parameter in own.frozen._model.parameters()}
    (phase,) = trainer.objective.phases
    assert not frozen & {id(parameter) for parameter in phase.parameters()}


def test_a_run_is_resumed_bit_for_bit_wherever_the_encoder_is(
    run: Path, encoder: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    place, folder = tmp_path / "first" / "bert", tmp_path / "run"
    shutil.copytree(encoder, place)
    assert not trainer_of(config_of(place), folder).run(stop_after_seconds=0)
    before = samples_of(folder)
    moved = place.rename(tmp_path / "second")
    line = undiffuse.rejected("sample", folder, "-n", 1, "--device", "cpu", "--out", tmp_path / "samples")
    assert f"no text encoder at {place}" in line
    assert f"set config.system.text.folder in {folder / 'config.json'}" in line and f"undiffuse seal {folder}" in line
    set_place(folder, moved)
    assert torch.equal(samples_of(folder), before)
    again = moved.rename(tmp_path / "third")
    line = undiffuse.rejected("train", "--resume", "--out", folder, "--device", "cpu")
    assert f"no text encoder at {moved}" in line and "set system.text.folder to" in line
    undiffuse.fine("train", "--resume", "--out", folder, "--device", "cpu", f"system.text.folder={again}")
    assert_same_run(run, folder)
    assert json.loads((folder / "config.json").read_text())["config"]["system"]["text"]["folder"] == str(again)
    load(folder, "cpu")


def set_place(folder: Path, encoder: Path) -> None:
    """Edit the place of the encoder in a model's configuration, and accept it."""
    record = json.loads((folder / "config.json").read_text())
    record["config"]["system"]["text"]["folder"] = str(encoder)
    (folder / "config.json").write_text(json.dumps(record))
    seal(folder)


@pytest.mark.parametrize(("how", "message"), [("changed", "has SHA-256"), ("other width", "has features of width 16")])
def test_another_encoder_in_the_same_place_is_rejected(
    run: Path, encoder: Path, tmp_path: Path, how: str, message: str
) -> None:
    folder, place = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "bert"
    if how == "changed":
        shutil.copytree(encoder, place)
        (place / "vocab.txt").write_text((place / "vocab.txt").read_text().replace("red", "rot"))
    else:
        write_bert(place, width=16)
    set_place(folder, place)
    with pytest.raises(UsageError, match=rf"the text encoder in {place} {message}.*; restore its files") as error:
        load(folder, "cpu")
    assert "\n" not in str(error.value)


def test_an_exported_model_refers_to_the_encoder_or_contains_it(run: Path, encoder: Path, tmp_path: Path) -> None:
    before = samples_of(run)
    plain = export(run, tmp_path / "plain", device="cpu")
    assert bytes_of(plain) < 500_000 and torch.equal(samples_of(plain), before)
    whole = export(run, tmp_path / "whole", embed_parts=True, device="cpu")
    assert {path.name for path in (whole / "text_encoder").iterdir()} == {path.name for path in encoder.iterdir()}
    assert sha256_of(whole / "text_encoder" / "model.safetensors") == sha256_of(encoder / "model.safetensors")
    assert no_leftovers(whole) and os.access(whole / "text_encoder" / "config.json", os.R_OK)
    away = encoder.rename(encoder.with_name("away"))
    try:
        with pytest.raises(UsageError, match="no text encoder at"):
            load(plain, "cpu")
        moved = whole.rename(tmp_path / "elsewhere")
        assert torch.equal(samples_of(moved), before)
        again = export(moved, tmp_path / "again", int8=True, device="cpu")  # it stays self-contained
        assert (again / "text_encoder" / "model.safetensors").is_file()
        samples_of(again)
        export(moved, again, overwrite=True, device="cpu")
        assert torch.equal(samples_of(again), before)
        (again / "text_encoder" / "notes.md").write_text("mine")
        with pytest.raises(UsageError, match=r"holds more than an exported model \(text_encoder/notes.md\)"):
            export(moved, again, overwrite=True, device="cpu")
        check_fine_tuning_from(moved, tmp_path / "tuned")
    finally:
        away.rename(encoder)


def check_fine_tuning_from(embedded: Path, folder: Path) -> None:
    """A model that contains its encoder is fine-tuned with it, without the folder of its training."""
    config = fine_tuned(embedded, ["num_images=16", "batch_images=16", "preview_every_images=0"], "scenes")
    system: Any = config.system
    assert system.text.folder == str(embedded / "text_encoder")
    source = config.data.model_copy(update=SCENES.model_dump(exclude={"name"}))
    start = load(embedded, "cpu").module
    config = config.model_copy(update={"data": source})
    assert train(config, out=folder, device="cpu").finished
    tuned = load(folder, "cpu").module
    assert tuned.config.text == start.config.text.model_copy(update={"folder": system.text.folder})  # type: ignore[attr-defined]
    assert not torch.equal(*(one.state_dict()["conditioner.encoder.project.weight"] for one in (tuned, start)))


def test_words_cannot_be_added_to_a_frozen_vocabulary(run: Path, tmp_path: Path) -> None:
    options = ["num_images=16", "batch_images=16", "preview_every_images=0", "freeze=all,!new_words"]
    config = fine_tuned(run, options, "scenes")
    config = config.model_copy(update={"data": SCENES})
    with pytest.raises(UsageError, match="new_words"):
        trainer_of(config, tmp_path / "tuned")


def test_embedding_the_parts_of_a_model_without_any_is_noted(
    trained_points: Path, tmp_path: Path, undiffuse: CommandLine
) -> None:
    outcome = undiffuse.fine("export", trained_points, "--out", tmp_path / "out", "--embed-parts", "--device", "cpu")
    assert "this model has no parts from elsewhere; --embed-parts has no effect" in outcome.err


def test_a_run_is_started_from_the_command_line_and_computes_features_once(
    encoder: Path, tmp_path: Path, undiffuse: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoder.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    computed: list[str] = []
    original = FrozenFeatures._computed

    def counted(self: FrozenFeatures, texts: Any, *rest: Any) -> Any:
        computed.extend(texts)
        return original(self, texts, *rest)

    monkeypatch.setattr(FrozenFeatures, "_computed", counted)
    data = ("data=scenes", "data.size=16", "data.sizes=false", "data.objects=2", "data.shapes=3", "data.num_scenes=40")
    network = ("system.network.channels=8", "system.network.multipliers=[1,2]", "system.network.text_levels=[1]")
    text = ("system.text=frozen:bert", "system.text.width=16", "system.text.num_layers=1")
    counts = ("num_images=64", "batch_images=16", "validation_images=0", "preview_every_images=0")
    options = (*data, *network, *text, *counts, "quality_every_images=0", "system.class_conditional=false")
    outcome = undiffuse.fine("train", "ddpm-digits", "--out", tmp_path / "run", "--device", "cpu", *options)
    system = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["system"]
    assert system["text"]["folder"] == str(encoder)
    (file,) = (tmp_path / "cache" / "undiffuse" / "text").rglob("*.safetensors")
    with safe_open(file, "pt") as opened:
        assert len(opened.get_tensor("counts")) == len(computed) == len(set(computed)) > 8
    assert "loading" not in outcome.err.lower()  # transformers prints nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["system.text=frozen:nowhere"], "no text encoder at nowhere; set system.text.folder to a folder"),
        (["system.text=frozen", "system.text.folder=nowhere"], "no text encoder at nowhere"),
        (["system.text=frosen"], "unknown text encoder 'frosen'; did you mean 'frozen'?"),
        (["system.text=frozen", "system.text.chunks=0"], "chunks"),
    ],
)
def test_a_wrong_folder_is_reported_before_data_are_read(
    tmp_path: Path, undiffuse: CommandLine, options: list[str], message: str
) -> None:
    line = undiffuse.rejected("train", "ddpm-digits", "--out", tmp_path / "run", *options)
    assert message in line and not (tmp_path / "run").exists()


def test_data_without_captions_are_rejected(encoder: Path, tmp_path: Path) -> None:
    images = ArrayDataset("digits", np.zeros((4, 1, 8, 8), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"system\.text=frozen needs data with captions, and this data has none"):
        Trainer(config_of(encoder), images, images, tmp_path)
