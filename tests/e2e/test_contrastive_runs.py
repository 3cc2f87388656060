"""Contrastive models from end to end: they learn, resume exactly, stop at NaN, evaluate samples and guide by text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from command_line import CommandLine, assert_same_run, run_until, trainer_of

import undiffuse
from undiffuse.api.configuration.runs import configure
from undiffuse.compute import threaded_batch
from undiffuse.core.processes import make_process
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.models.guides.contrastive import LARGEST_SCALE, ContrastiveModel
from undiffuse.models.saved import load
from undiffuse.training.nonfinite import NonFiniteError
from undiffuse.training.trainer import Trainer

TINY = ["system.network.channels=16", "system.network.multipliers=[1]", "system.network.patch_size=4"]
TINY += ["system.text.width=32", "system.text.num_layers=1", "system.dim=32", "system.precision=fp32"]
TINY += [
    "data.num_scenes=3000",
    "data.colours=4",
    "data.validation_fraction=0.2",
    "batch_images=64",
    "optimizer.warmup_images=300",
]
TINY += ["log_every_images=640", "validate_every_images=2560", "validation_images=128"]
SHORT = ["num_images=320", "checkpoint_every_images=128", "validate_every_images=192"]


def trainer_in(folder: Path, *overrides: str) -> Trainer:
    return trainer_of(configure("contrastive-scenes", [*TINY, *overrides], None, None, False), folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contrastive")
    assert trainer_in(folder, "num_images=6400").run()
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of scenes without text, barely trained."""
    small = ["system.network.channels=8", "system.network.multipliers=[1]", "system.network.text_levels=[]"]
    small += [
        "system.text=null",
        "system.sampling.guidance=1",
        "data.num_scenes=300",
        "data.validation_fraction=0.2",
        "num_images=64",
    ]
    small += ["batch_images=32", "preview_every_images=0", "validate_every_images=0", "system.network.norm_groups=4"]
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    assert trainer_of(configure("text-scenes-16", small, None, None, False), folder).run()
    return folder


def model_of(folder: Path) -> ContrastiveModel:
    module = load(folder).module
    assert isinstance(module, ContrastiveModel)
    return module


def test_it_learns_and_logs_how_often_the_own_caption_is_first(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "validation"][-1]
    assert last["loss"] < 0.75 * math.log(128) and last["accuracy"] > 10 / 128
    assert last["accuracy_below_-4"] < last["accuracy_above_4"]
    assert [row for row in rows if row["kind"] == "train"][-1]["logit_scale"] > 1
    assert "--evaluator ." in (trained / "model_card.md").read_text()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = configure("contrastive-scenes", [*TINY, *SHORT, "system.loss=sigmoid"], None, None, False)
    assert trainer_of(config, tmp_path / "whole").run()
    run_until(config, tmp_path / "parts", 128)
    again = trainer_of(config, tmp_path / "parts")
    assert again.resume() and again.images == 128 and again.run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, *SHORT)
    head = trainer.objective.model.text_head
    head.register_forward_hook(lambda module, inputs, output: output * (torch.nan if trainer.step == 2 else 1))
    with pytest.raises(NonFiniteError, match="the loss is not finite at step 2"):
        trainer.run()
    assert (tmp_path / "nonfinite_step_2" / "batch.safetensors").is_file()


def test_a_batch_is_never_split_in_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="compares all images of a batch, which cannot be split; set micro_batch_im"):
        configure("contrastive-scenes", [*TINY, "micro_batch_images=32"], None, None, False)
    trainer = trainer_in(tmp_path, "system.noise=false")
    batch, losses, slopes = trainer.loader.dataset.fetch(range(32)), [], []
    for parts in (1, 4):
        monkeypatch.setattr(threaded_batch, "num_parts", lambda parts=parts: parts)
        report = trainer.objective(batch, "main", StepRandom(0, 0, 0))
        losses.append(report.per_sample)
        slopes.append(torch.autograd.grad(report.loss, trainer.objective.model.network.head.weight)[0])
    assert torch.allclose(*losses, atol=1e-5) and torch.allclose(*slopes, atol=1e-6)


def test_the_scale_of_the_cosines_is_limited(tmp_path: Path) -> None:
    objective = trainer_in(tmp_path).objective
    with torch.no_grad():
        objective.model.log_scale.fill_(10.0)
    objective.absorb("main", [])
    assert objective.model.scale.item() == pytest.approx(LARGEST_SCALE)


def test_embeddings_do_not_depend_on_the_company(trained: Path) -> None:
    model = model_of(trained)
    texts = [f"a {colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square")]
    together = model.encode_texts(texts)
    assert torch.equal(together[3:4], model.encode_texts(texts[3:4]))
    assert torch.allclose(together.norm(dim=1), torch.ones(6), atol=1e-5)
    x_0 = torch.rand(21, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(model.encode_images(x_0)[20:], model.encode_images(x_0[20:]))


def test_log_probabilities_are_equal_at_equal_log_snr(trained: Path) -> None:
    model, edm = model_of(trained), make_process("edm:sigma_max=80")
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target, t = model.encode_texts(["a red circle"]).expand(4, -1), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    there = edm.time_of_log_snr(model.process.log_snr(t))
    ratio = edm.alpha(there) / model.process.alpha(t)
    own = model.log_prob(x, t, target, model.process)
    assert torch.allclose(model.log_prob(per_row(ratio, x) * x, there, target, edm), own, atol=1e-3)


def test_it_retrieves_above_chance(trained: Path) -> None:
    results = undiffuse.evaluate(trained, gallery=40)["results"]
    assert [row["metric"] for row in results] == ["retrieval_image_to_text", "retrieval_text_to_image"]
    for row in results:
        shares, chance = row["details"]["recall"], row["protocol"]["chance"]
        assert row["protocol"]["gallery"] == 40 and chance == {"R@1": 0.025, "R@5": 0.125, "R@10": 0.25}
        assert shares["R@10"] >= shares["R@5"] > 2 * chance["R@5"]
        assert row["details"]["cosine"] > row["details"]["cosine_of_other_captions"]
        low, high = row["details"]["intervals"]["R@1"]
        assert low <= row["value"] <= high


@pytest.mark.parametrize("through", ["x_t", "x_0"])
def test_a_model_without_text_is_guided_by_text(trained: Path, generator: Path, through: str) -> None:
    """The guided samples match their texts better, and each is what it is alone."""
    model, evaluator = undiffuse.load(generator), model_of(trained)
    texts = ["a red circle left of a blue square", "a blue triangle above a red square"]
    options = {"steps": 4, "classifier": trained, "classifier_scale": 10.0, "classifier_through": through}
    drawn = model.sample(4, prompt=texts, **options)
    targets = evaluator.encode_texts(texts * 2)
    cosines = [
        (evaluator.encode_images(images.float() / 127.5 - 1) * targets).sum(1).mean()
        for images in (drawn.as_subclass(torch.Tensor), model.sample(4, steps=4).as_subclass(torch.Tensor))
    ]
    assert cosines[0] > cosines[1] + 0.02
    alone = model.sample(1, seed=1, prompt=texts[1], **options)
    assert torch.equal(drawn.as_subclass(torch.Tensor)[1:2], alone.as_subclass(torch.Tensor))
    composed = model.sample(1, seed=1, prompt=f"{texts[1]} AND {texts[0]} :0.0", **options)
    assert torch.equal(composed.as_subclass(torch.Tensor), alone.as_subclass(torch.Tensor))


def test_samples_are_evaluated(trained: Path, generator: Path) -> None:
    found = undiffuse.evaluate(
        generator, ["text_retrieval"], num=16, gallery=8, evaluator=trained, classifier=trained, steps=2
    )["results"]
    assert [row["metric"] for row in found] == ["text_retrieval_seen", "text_retrieval_held_out"]
    for row in found:
        protocol, real = row["protocol"], row["details"]["real_images"]
        assert protocol["evaluator"] == trained.name and protocol["evaluator_guided_the_samples"]
        assert protocol["gallery"] == 8 and protocol["samples"]["num"] == 16
        assert real["recall"]["R@5"] > protocol["chance"]["R@5"] and real["cosine"] > -1
    assert found[0]["protocol"]["captions_also_in_training"] == 8
    assert found[1]["protocol"]["captions_also_in_training"] == 0  # the split is by caption


def test_a_guide_that_knows_no_noise_guides_through_x_0_only(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = tmp_path / "clean"
    assert trainer_in(clean, *SHORT, "num_images=64", "system.noise=false").run()
    message = "trained on images without noise and cannot guide through x_t; add --classifier-through x_0"
    arguments = ["sample", generator, "-n", 1, "--steps", 2, "--prompt", "a red circle", "--classifier", clean]
    assert message in CommandLine(capsys).rejected(*arguments, "--out", tmp_path / "out")
    with pytest.raises(UsageError, match="cannot guide through x_t; add classifier_through x_0"):
        undiffuse.load(generator).sample(1, classifier=clean, prompt="a red circle")
    guided = [*arguments, "--classifier-through", "x_0", "--out", tmp_path / "out"]
    CommandLine(capsys).fine(*guided)
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["images"][0]["prompt"] == "a red circle"


def test_wrong_uses_are_one_line(
    trained: Path, generator: Path, trained_points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = CommandLine(capsys)
    assert "this model is a contrastive model, which generates no samples" in command.rejected("sample", trained)
    for model, metric, options, message in (
        (generator, "text_retrieval", {}, "needs a contrastive model as the evaluator, got none"),
        (generator, "text_retrieval", {"evaluator": trained}, "this model was trained without text"),
        (generator, "class_agreement", {"evaluator": trained}, "this model was trained without classes"),
        (generator, "retrieval", {}, "is for contrastive models, got a NetworkModel"),
        (trained, "zero_shot_accuracy", {}, "needs held-out images with classes"),
        (trained, "frechet", {}, "this model is a contrastive model"),
        (trained_points, "text_retrieval", {"evaluator": trained}, "is for images"),
    ):
        with pytest.raises(UsageError, match=message):
            undiffuse.evaluate(model, [metric], **options)  # type: ignore[arg-type]
    assert "a template needs {}" in command.rejected("evaluate", trained, "--template", "a photo")
    with pytest.raises(UsageError, match="needs data with captions"):
        trainer_of(configure("contrastive-scenes", [*TINY[:5], "data.upscale=true"], "digits", None, False), tmp_path)
