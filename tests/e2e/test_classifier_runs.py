"""Classifiers of noisy data from end to end: they learn, resume exactly, stop at NaN, load, and generate nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from command_line import CommandLine, assert_same_run, run_until, trainer_of
from PIL import Image
from torch import nn

import undiffuse
from undiffuse.api.configuration.runs import configure
from undiffuse.api.loading import next_command
from undiffuse.core.processes import make_process
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.models.classifier import ClassifierModel, ClassifierModelConfig
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.networks import UNetConfig
from undiffuse.objectives.classifier import LOG_SNR_BINS, accuracies
from undiffuse.objectives.from_model import objective_of
from undiffuse.training.nonfinite import NonFiniteError
from undiffuse.training.trainer import Trainer

POINTS = ["system.network.width=32", "system.network.num_blocks=1", "data.num_points=2000", "batch_images=200"]
POINTS += ["optimizer.warmup_images=1000", "log_every_images=4000", "validate_every_images=8000"]
SHORT = ["num_images=1000", "checkpoint_every_images=400", "validation_images=64", "validate_every_images=600"]


def trainer_in(folder: Path, *overrides: str) -> Trainer:
    return trainer_of(configure("classifier-rings", [*POINTS, *overrides], None, None, False), folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert trainer_in(folder, "num_images=40000").run()
    return folder


def test_it_learns_what_noise_leaves_and_logs_the_accuracy_by_noise(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "validation"][-1]
    assert last["loss"] < 0.8 * math.log(3)
    assert last["accuracy_above_4"] > 0.95 and last["accuracy"] > 0.5
    assert last["accuracy_below_-4"] < last["accuracy_0_to_4"] < last["accuracy_above_4"]
    assert {"accuracy_train", "accuracy_gap"} <= last.keys()
    assert LOG_SNR_BINS.keys() <= [row for row in rows if row["kind"] == "train"][-1].keys()
    assert not (trained / "previews").exists()
    assert "--classifier ." in (trained / "model_card.md").read_text()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = configure("classifier-rings", [*POINTS, *SHORT], None, None, False)
    assert trainer_of(config, tmp_path / "whole").run()
    for images in (400, 600):
        run_until(config, tmp_path / "parts", images)
    again = trainer_of(config, tmp_path / "parts")
    assert again.resume() and again.images == 600 and again.run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, *SHORT)
    layer = next(module for module in trainer.objective.model.modules() if isinstance(module, nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: output * (torch.nan if trainer.step == 2 else 1))
    with pytest.raises(NonFiniteError, match="the loss is not finite at step 2"):
        trainer.run()
    assert (tmp_path / "nonfinite_step_2" / "batch.safetensors").is_file()


def test_it_loads_and_knows_its_loss(trained: Path) -> None:
    loaded = load(trained)
    assert isinstance(loaded.module, ClassifierModel) and loaded.class_names == ("0", "1", "2")
    assert objective_of(loaded) is not None
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    names = loaded.module.state_dict().keys()
    assert not any(
        "network.head" in name.removeprefix("network.") for name in names
    )  # the last layer is the classifier's


def test_probabilities_are_equal_at_equal_log_snr(trained: Path) -> None:
    model, edm = load(trained).module, make_process("edm:sigma_max=80")
    assert isinstance(model, ClassifierModel)
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(5, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1])
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    log_snr = model.process.log_snr(t)
    there = edm.time_of_log_snr(log_snr)
    ratio = edm.alpha(there) / model.process.alpha(t)
    own = model.log_prob(x, t, labels, model.process)
    assert torch.allclose(model.log_prob(per_row(ratio, x) * x, there, labels, edm), own, atol=1e-4)
    assert torch.allclose(
        sum(model.log_prob(x, t, labels * 0 + k, model.process).exp() for k in range(3)),
        torch.ones(5),  # type: ignore[arg-type]
    )
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert bool(torch.isfinite(model.log_prob(x[:2], ends, labels[:2], model.process)).all())


def test_accuracies_are_those_of_the_bins_that_have_samples() -> None:
    log_snr = torch.tensor([-9.0, -4.0, -0.1, 7.0, 5.0], dtype=torch.float64)
    found = accuracies(torch.tensor([True, False, True, True, False]), log_snr)
    assert {name: float(value) for name, value in found.items()} == {
        "accuracy": 0.6,
        "accuracy_below_-4": 1.0,
        "accuracy_-4_to_0": 0.5,
        "accuracy_above_4": 0.5,
    }


def test_it_is_evaluated_by_noise_level(trained: Path) -> None:
    results = undiffuse.evaluate(trained)["results"]
    assert [row["metric"] for row in results] == ["noisy_accuracy"]
    shares = results[0]["details"]["by_log_snr"]
    assert shares["8"] > 0.95 > 0.6 > shares["-8"] and list(shares) == [f"{level}" for level in range(-8, 9, 2)]
    assert results[0]["value"] == pytest.approx(sum(shares.values()) / 9, abs=1e-6)
    assert undiffuse.evaluate(trained)["results"][0]["value"] == results[0]["value"]


def test_the_next_command_is_one_that_works(trained: Path, trained_points: Path) -> None:
    assert next_command(trained) == f"undiffuse evaluate {trained}"
    assert next_command(trained_points) == f"undiffuse sample {trained_points} -n 64"


def test_a_guided_model_is_evaluated_and_its_classifier_is_in_the_protocol(trained: Path, trained_points: Path) -> None:
    found = []
    for options in ({}, {"classifier": trained}, {"classifier": trained, "classifier_scale": 3.0}):
        (row,) = undiffuse.evaluate(trained_points, ["sliced_wasserstein"], num=64, steps=2, **options)["results"]
        found.append(row["value"])
        sampling = row["protocol"]["samples"]
        assert sampling.get("classifier") == (trained.name if options else None)
        assert sampling.get("classifier_sha256") == (load(trained).weights_sha256 if options else None)
    assert len(set(found)) == 3


def test_its_report_has_the_accuracy_and_no_samples(trained: Path, tmp_path: Path) -> None:
    page = undiffuse.report(trained, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "There are no samples to show" in page and "Accuracy on held-out data" in page
    assert f"undiffuse sample MODEL --classifier {trained}" in page and "Accuracy, log-SNR above 4" in page


MESSAGE = "this model is a classifier, which generates no samples; guide another model"


def test_nothing_is_sampled_from_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(trained)
    with pytest.raises(UsageError, match=MESSAGE):
        loaded.sample(2)
    with pytest.raises(UsageError, match=MESSAGE):
        loaded.module.sample(SampleRequest.of([0]))
    with pytest.raises(UsageError, match=MESSAGE):
        undiffuse.evaluate(trained, ["sliced_wasserstein"])
    for arguments in (["sample", str(trained)], ["sample", str(trained), "--class", "1"]):
        assert MESSAGE in CommandLine(capsys).rejected(*arguments)


def test_a_generator_is_no_classifier(trained_points: Path) -> None:
    with pytest.raises(UsageError, match="metric 'noisy_accuracy' is for classifiers of noisy data"):
        undiffuse.evaluate(trained_points, ["noisy_accuracy"])


@pytest.mark.parametrize(("names", "count"), [((), 0), (("cat",), 1)])
def test_data_without_classes_are_rejected(names: tuple[str, ...], count: int) -> None:
    with pytest.raises(UsageError, match=f"at least 2 classes, got {count}"):
        ClassifierModelConfig(network=UNetConfig(channels=8, multipliers=(1,))).build((1, 8, 8), names)
    with pytest.raises(UsageError, match=r"augment\.condition=true conditions the network"):
        ClassifierModelConfig().build((1, 8, 8), ("a", "b"), 3)


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the 8x8 digits, barely trained."""
    tiny = ["system.network.channels=8", "system.network.multipliers=[1,2]", "system.network.patch_size=1"]
    tiny += ["num_images=640", "batch_images=32", "data.name=digits", "validate_every_images=0"]
    folder = tmp_path_factory.mktemp("digits")
    assert trainer_of(configure("classifier-mnist", tiny, "digits", None, False), folder / "clf").run()
    return folder / "clf"


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize("through", ["x_t", "x_0"])
def test_a_model_without_classes_is_sampled_by_class(
    trained_bf16: Path,
    of_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    through: str,
) -> None:
    guided = ["--classifier", of_digits, "--class", "3", "--class", "7", "--classifier-through", through]
    arguments = ["sample", trained_bf16, "-n", 3, "--steps", 2, *guided, "--classifier-scale", 2]
    CommandLine(capsys).fine(*arguments, "--out", tmp_path / "samples")
    record = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert record["classifier"] == "clf" and record["classifier_scale"] == 2
    assert record["classifier_sha256"] == load(of_digits).weights_sha256
    assert [row["class"] for row in record["images"]] == ["3", "7", "3"]
    image, again = tmp_path / "samples" / "000001.png", tmp_path / "again"
    line = CommandLine(capsys).rejected("sample", trained_bf16, "--from", image, "--out", again)
    assert "not here or in runs; give its folder with --classifier" in line
    CommandLine(capsys).fine("sample", trained_bf16, "--from", image, "--classifier", of_digits, "--out", again)
    assert pixels(again / "000000.png") == pixels(image)
    monkeypatch.chdir(of_digits.parent)
    shown = CommandLine(capsys).fine("sample", trained_bf16, "--from", image, "--out", tmp_path / "third")
    assert "bit for bit" in shown.out + shown.err
    model = undiffuse.load(trained_bf16)
    assert model.class_names == ()
    options = {"steps": 2, "classifier": of_digits, "classifier_through": through}
    drawn = model.sample(3, class_name=["3", "7"], classifier_scale=2, **options)
    images = [
        undiffuse.load(trained_bf16).sample(1, seed=i, class_name=c, classifier_scale=2, **options)
        for i, c in ((0, 3), (1, 7))
    ]
    assert torch.equal(drawn[:2], torch.cat([image.as_subclass(torch.Tensor) for image in images]))
    assert not torch.equal(drawn, model.sample(3, steps=2)) and drawn.classes == ["3", "7", "3"]


def test_a_wrong_classifier_is_one_line_before_anything_is_sampled(
    trained: Path, trained_bf16: Path, of_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, sample = CommandLine(capsys), ["sample", trained_bf16, "-n", 2, "--out", tmp_path / "out"]
    for arguments, message in (
        (["--classifier", tmp_path / "none"], "no model"),
        (["--classifier", trained_bf16], "not a classifier; train one with"),
        (["--classifier", trained], r"shape (2,)"),
        (["--classifier", of_digits, "--class", "eleven"], "unknown class 'eleven'"),
        (["--classifier", of_digits, "--classifier-scale", -1], "classifier_scale must be at least 0 and finite"),
        (["--classifier", of_digits, "--classifier-through", "x"], "classifier_through must be x_t or x_0, got 'x'"),
        (["--classifier-through", "x_0"], "classifier_through x_0 needs a classifier; add --classifier FOLDER"),
    ):
        assert message in command.rejected(*sample, *arguments)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="not a classifier"):
        undiffuse.load(trained_bf16).sample(1, classifier=str(trained_bf16))
