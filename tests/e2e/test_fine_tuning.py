"""A run that starts from the weights of another model: what it keeps, what it trains, and that it can do without it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, log_rows_of, state_of
from torch import Tensor

from undiffuse.api.configuration.runs import configure, saved_config
from undiffuse.api.loading import load
from undiffuse.api.training import split_data
from undiffuse.api.training import train as train_model
from undiffuse.core.condition import Condition
from undiffuse.data.config import DigitsConfig
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import UsageError
from undiffuse.training.nonfinite import NonFiniteError
from undiffuse.training.trainer import Trainer

#: Class 7 is known to the start model of ``few``, 1 and 4 are new to it.
FEW, OTHER = "data.classes=3,7,9", "data.classes=7,1,4"
SHORT = ("batch_images=16", "num_images=64", "validate_every_images=0", "preview_every_images=0")
ADAM = ("optimizer.name=adam", "optimizer.learning_rate=1e-3")
WORDS = "conditioner.encoder.embedding.weight"
CLASSES = "network.embedding.classes.weight"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes, whose EMA weights differ from the raw ones."""
    folder = tmp_path_factory.mktemp("start") / "few"
    train_model("ddpm-digits", [*TINY, "num_images=128", FEW, "optimizer.warmup_images=0"], out=folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without classes."""
    folder = tmp_path_factory.mktemp("start") / "plain"
    overrides = [*TINY, "num_images=32", "system.class_conditional=false", "system.sampling.guidance=1"]
    train_model("ddpm-digits", overrides, out=folder)
    return folder


def begun(start: Path, folder: Path, *overrides: str, weights: str = "ema") -> Trainer:
    """The trainer of a fine-tuning run before its first step."""
    config = configure(None, [*SHORT, *overrides], "digits", folder, False, "cpu", None, start, weights)
    return Trainer(config, *split_data(config), folder)


def copied(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.objective.model.state_dict().items()}


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_it_starts_from_the_weights_of_the_model_and_so_does_its_average(
    few: Path, tmp_path: Path, weights: str
) -> None:
    trainer, source = begun(few, tmp_path, FEW, weights=weights), load(few, "cpu", weights).module.state_dict()
    model, average = trainer.objective.model.state_dict(), trainer.ema.average.state_dict()
    for name, value in source.items():
        assert torch.equal(model[name], value) and torch.equal(average[name], value), name


def test_classes_keep_their_rows_by_name_and_new_ones_start_at_the_mean(few: Path, tmp_path: Path) -> None:
    trainer = begun(few, tmp_path, OTHER)
    source = load(few, "cpu")
    rows, old = trainer.objective.model.state_dict()[CLASSES], source.module.state_dict()[CLASSES]
    assert trainer.objective.model.class_names == ("1", "4", "7") and source.class_names == ("3", "7", "9")
    mean = old[:3].mean(0)
    assert torch.equal(rows, torch.stack([mean, mean, old[1], old[3]]))
    assert trainer._start_notes == ["1 class of the start model kept; new, from the mean of all: 1, 4; left out: 3, 9"]


def test_the_average_moves_from_the_loaded_weights_at_its_halflife(few: Path, tmp_path: Path) -> None:
    """After one step of B images the average is 2^(-B/h) start + (1 - 2^(-B/h)) new."""
    trainer = begun(few, tmp_path, OTHER, "ema.halflife_images=32")
    before = copied(trainer)
    trainer.trial_step()
    kept = 0.5 ** (16 / 32)
    for (name, new), averaged in zip(
        trainer.objective.model.named_parameters(), trainer.ema.average.parameters(), strict=True
    ):
        assert torch.allclose(averaged, kept * before[name] + (1 - kept) * new, atol=1e-6), name


def test_a_resumed_run_equals_an_uninterrupted_one_without_the_start_model(few: Path, tmp_path: Path) -> None:
    start = shutil.copytree(few, tmp_path / "start")
    given = [*SHORT, OTHER, "freeze=encoder", 'optimizer.rates={"decoder": 0.5}', "checkpoint_every_images=32"]
    whole = train_model(None, given, data="digits", start=start, out=tmp_path / "whole")
    stopped = train_model(None, given, data="digits", start=start, out=tmp_path / "stopped", stop_after_seconds=0)
    assert whole.finished and not stopped.finished
    shutil.rmtree(start)
    assert train_model(out=stopped.folder, resume=True).finished
    a, b = state_of(whole.folder), state_of(stopped.folder)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert log_rows_of(whole.folder) == log_rows_of(stopped.folder)
    record = json.loads((whole.folder / "config.json").read_text())
    origin = record["config"]["start"]
    assert (origin["name"], origin["weights"], len(origin["sha256"])) == ("start", "ema", 64)
    assert origin["sha256"] == load(few, "cpu").weights_sha256
    assert (
        f"| fine-tuned from | start, ema weights {origin['sha256']} |" in (whole.folder / "model_card.md").read_text()
    )
    assert load(whole.folder, "cpu").sample(2, steps=1).shape[0] == 2


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("encoder", ("network.stem.", "network.down.")),
        ("attention", (".attention.",)),
        ("network.embedding,!classes", ("embedding.first.", "embedding.second.")),
        ("network.up.*.bias", ()),
    ],
)
def test_what_is_frozen_keeps_its_bits_and_has_no_optimizer_state(
    few: Path, tmp_path: Path, freeze: str, frozen: tuple[str, ...]
) -> None:
    trainer = begun(few, tmp_path, FEW, f"freeze={freeze}", *ADAM)
    before, names = copied(trainer), [name for name, _ in trainer.objective.model.named_parameters()]
    for _ in range(2):
        trainer.trial_step()
    after, average = copied(trainer), trainer.ema.average.state_dict()
    kept = {name for name in names if torch.equal(before[name], after[name])}
    expected = {name for name in names if any(part in name for part in frozen)}
    if not frozen:  # biases of the decoder, but for those of single parts
        expected = {name for name in names if name.startswith("network.up.") and name.endswith(".bias")}
    assert expected and kept == expected
    assert all(torch.equal(before[name], average[name]) for name in kept)
    assert not any(torch.equal(before[name], average[name]) for name in set(names) - kept)
    moments = [name for name in trainer.optimizers.tensors() if name.endswith(".exp_avg")]
    assert len(moments) == len(names) - len(kept)


def test_rates_scale_the_updates_of_the_parameters_they_match(few: Path, tmp_path: Path) -> None:
    """Adam's first update is the learning rate in every coordinate whose gradient is well above eps."""
    rate = 1e-3
    trainer = begun(
        few,
        tmp_path,
        FEW,
        *("optimizer.name=adam", f"optimizer.learning_rate={rate}", "optimizer.warmup_images=0"),
        *("optimizer.decay=constant", "optimizer.eps=1e-12", "optimizer.clip_norm=null"),
        'optimizer.rates={"all": 0.5, "decoder": 0.1, "network.head.bias": 2}',
    )
    before = copied(trainer)
    trainer.trial_step()
    after = copied(trainer)
    for name, factor in (
        ("network.stem.weight", 0.5),
        ("network.embedding.first.weight", 0.5),
        ("network.head.weight", 0.1),
        ("network.head.bias", 2.0),
    ):
        assert float((after[name] - before[name]).abs().median()) == pytest.approx(rate * factor, rel=1e-3), name


def test_other_image_sizes_take_the_weights_of_a_network_that_has_none(few: Path, tmp_path: Path) -> None:
    trainer = begun(few, tmp_path, FEW, "data.size=16", "data.upscale=true")
    assert trainer.objective.model.shape == (1, 16, 16)
    trainer.trial_step()
    source = load(few, "cpu").module.state_dict()
    assert source.keys() == trainer.objective.model.state_dict().keys()


def test_classes_that_the_start_model_lacks_start_at_zero_and_change_nothing(plain: Path, tmp_path: Path) -> None:
    source = load(plain, "cpu").module
    trainer = begun(plain, tmp_path, "system.class_conditional=true")
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 0.4)
    found = trainer.ema.average.denoiser()(x, t, Condition(label=torch.tensor([0, 3, 9, -1]))).x_0
    assert torch.equal(found, source.denoiser()(x, t, Condition()).x_0)
    ignored = begun(plain, tmp_path)
    assert ignored.objective.model.class_names == ()
    assert "system.class_conditional=true adds them" in ignored._start_notes[-1]


def test_without_classes_in_the_data_the_model_goes_on_as_that_of_no_class(few: Path, tmp_path: Path) -> None:
    config = configure(None, [*SHORT, FEW], "digits", tmp_path, False, "cpu", None, few)
    training, held_out = split_data(config)
    array = training.fetch(range(32)).items.numpy()
    unlabelled = ArrayDataset("digits", array, hashes=[bytes([k]) * 16 for k in range(32)])
    trainer = Trainer(config, unlabelled, held_out, tmp_path)
    assert not trainer.config.system.class_conditional and trainer.config.system.sampling.guidance == 1
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 0.4)
    source = load(few, "cpu").module.denoiser()(x, t, Condition(label=torch.full((4,), -1))).x_0
    assert torch.allclose(trainer.ema.average.denoiser()(x, t, Condition()).x_0, source, atol=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_run(few: Path, tmp_path: Path) -> None:
    trainer = begun(few, tmp_path, FEW, "freeze=all,!decoder")
    with torch.no_grad():
        trainer.objective.model.network.head.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="not finite"):
        trainer.trial_step()


def test_the_defaults_are_gentle_and_can_be_overridden(few: Path, tmp_path: Path) -> None:
    base = configure("ddpm-digits", list(TINY), None, None, False)
    tuned = configure(None, [], "digits", None, False, "cpu", None, few)
    assert tuned.optimizer.learning_rate == base.optimizer.learning_rate / 4
    assert tuned.num_images == round(0.2 * 128) and tuned.ema.rampup is None
    assert tuned.recipe == "fine-tuned-ddpm-digits"
    assert isinstance(tuned.data, DigitsConfig) and tuned.data.size == 8 and tuned.data.channels == 1
    other = configure(None, ["optimizer.learning_rate=0.1", "ema.rampup=0.1"], "digits", None, False, "cpu", None, few)
    assert (other.optimizer.learning_rate, other.ema.rampup) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["system.process=vp"], "system.process is fixed by the weights of the start model"),
        (["system.network.channels=16"], "system.network.channels is fixed"),
        (["system.parameterization=v"], "system.parameterization is fixed"),
        (["system=gan"], "system is fixed"),
        (["start.path=x"], "start.path is set by --from"),
        (["freeze=encodr"], "no parameter of this model matches 'encodr'; did you mean 'encoder'"),
        (["freeze=all"], "leaves nothing to train"),
        (['optimizer.rates={"nothing": 2}'], "optimizer.rates: no parameter of this model matches 'nothing'"),
        (["data.channels=3"], r"generates samples of shape (1, 8, 8), this data has (3, 8, 8); add data.channels=1"),
    ],
)
def test_what_does_not_fit_the_start_model_is_rejected(
    few: Path, tmp_path: Path, undiffuse: CommandLine, overrides: list[str], words: str
) -> None:
    out = tmp_path / "run"
    line = undiffuse.rejected("train", "--from", few, "--data", "digits", "--out", out, *SHORT, *overrides)
    assert words in line and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "mnist-1step", "--data", "digits"], "fine-tune the model it was distilled from"),
        (["--from", "mnits", "--data", "digits"], "did you mean 'mnist'"),
        (["--from", "mnist"], "name them with --data FOLDER"),
        (["flow-mnist", "--from", "mnist", "--data", "digits"], "the recipe 'flow-mnist' gives another"),
        (["--from", "mnist", "--data", "digits", "--resume", "--out", "x"], "leave --from out"),
        (["--from", "mnist", "--data", "digits", "--from-weights", "best"], "unknown kind of weights 'best'"),
    ],
)
def test_the_start_is_given_once_and_with_data(undiffuse: CommandLine, arguments: list[str], words: str) -> None:
    assert words in undiffuse.rejected("train", *arguments)


def test_other_weights_than_expected_are_rejected(few: Path, plain: Path, tmp_path: Path) -> None:
    config = configure(None, [*SHORT], "digits", tmp_path, False, "cpu", None, few)
    assert config.start is not None
    moved = config.model_copy(update={"start": config.start.model_copy(update={"path": str(plain)})})
    with pytest.raises(UsageError, match="this run expects"):
        Trainer(moved, *split_data(moved), tmp_path)


def captioned(count: int, text: str) -> ArrayDataset:
    """Random images with one caption."""
    rng = np.random.default_rng(len(text))
    array = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ArrayDataset("digits", array, hashes=[bytes([k]) * 16 for k in range(count)], captions=[text] * count)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with text that knows the words "a small circle"."""
    folder = tmp_path_factory.mktemp("start") / "speaking"
    text = 'system.text={"name": "learned", "width": 16, "num_layers": 1, "num_heads": 2}'
    plain = ("system.class_conditional=false", "system.sampling.num_steps=2")
    config = configure("ddpm-digits", [*TINY, *SHORT, "num_images=32", *plain, text], None, None, False)
    assert Trainer(config, captioned(32, "a small circle"), captioned(4, "a circle"), folder).run()
    return folder


def with_words(start: Path, folder: Path, text: str, *overrides: str) -> Trainer:
    config = configure(None, [*SHORT, *ADAM, *overrides], "digits", folder, False, "cpu", None, start)
    return Trainer(config, captioned(32, text), captioned(4, text), folder)


def test_new_words_are_appended_and_start_at_the_mean_or_like_a_known_one(speaking: Path, tmp_path: Path) -> None:
    old = load(speaking, "cpu").module.state_dict()[WORDS]
    trainer = with_words(speaking, tmp_path, "a sks circle")
    text: Any = trainer.config.system.text
    assert text.entries == ("a", "circle", "small", "sks")
    rows = trainer.objective.model.state_dict()[WORDS]
    assert torch.equal(rows[:6], old) and torch.equal(rows[6], old[3:].mean(0))
    assert trainer._start_notes == ["3 words of the start model kept; new, from the mean of all: sks"]
    alike = with_words(speaking, tmp_path, "a sks circle", 'start.like={"sks": "circle"}')
    assert torch.equal(alike.objective.model.state_dict()[WORDS][6], old[4])
    assert alike._start_notes == ["3 words of the start model kept; new: sks from circle"]
    with pytest.raises(UsageError, match="has no 'dog', which 'sks' would start from"):
        with_words(speaking, tmp_path, "a sks circle", 'start.like={"sks": "dog"}')


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_textual_inversion_changes_the_embedding_of_the_new_word_alone(
    speaking: Path, tmp_path: Path, optimizer: str
) -> None:
    inversion = ("freeze=all,!new_words", f"optimizer.name={optimizer}", "optimizer.warmup_images=0")
    trainer = with_words(speaking, tmp_path, "a sks circle", *inversion)
    before = copied(trainer)
    for _ in range(2):
        trainer.trial_step()
    after, average = copied(trainer), trainer.ema.average.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name != WORDS)
    assert torch.equal(before[WORDS][:6], after[WORDS][:6]) and torch.equal(before[WORDS][:6], average[WORDS][:6])
    assert not torch.equal(before[WORDS][6], after[WORDS][6])
    with pytest.raises(UsageError, match=r"needs optimizer\.weight_decay=0"):
        with_words(speaking, tmp_path, "a sks circle", *inversion, "optimizer.weight_decay=0.1")
    with pytest.raises(UsageError, match="the data have no new words"):
        with_words(speaking, tmp_path, "a circle", *inversion)


def test_prior_images_have_their_share_and_weight_in_the_loss(few: Path, tmp_path: Path) -> None:
    """L = mean of the losses of the data + weight x mean of those of the prior images, in the last rows."""
    prior = ("prior.class_name=9", "prior.num=6", "prior.share=0.25", "prior.weight=0.5")
    trainer = begun(few, tmp_path, OTHER, *prior)
    assert trainer.objective.model.class_names == ("1", "4", "7", "9") and trainer.prior is not None
    trainer._prepare_prior(trainer.prior)
    batch, rng = trainer._micro_batch(0)
    report = trainer.objective(batch, "main", rng)
    expected = report.per_sample[:12].mean() + 0.5 * report.per_sample[12:].mean()
    assert float(report.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert batch.given.label is not None and batch.given.label[12:].tolist() == [3] * 4
    samples = load(few, "cpu").sample(6, class_name="9")
    drawn = {tuple(image.flatten().tolist()) for image in batch.items[12:]}
    assert drawn <= {tuple(image.flatten().tolist()) for image in samples}


def test_prior_images_are_kept_with_the_run(speaking: Path, tmp_path: Path) -> None:
    start = shutil.copytree(speaking, tmp_path / "start")
    prior = ("prior.prompt=a circle", "prior.num=4", "num_images=48", "checkpoint_every_images=16")
    assert with_words(start, tmp_path / "whole", "a sks circle", *prior).run()
    assert not with_words(start, tmp_path / "stopped", "a sks circle", *prior).run(0)
    shutil.rmtree(start)
    data = captioned(32, "a sks circle"), captioned(4, "a sks circle")
    resumed = Trainer(saved_config(tmp_path / "stopped"), *data, tmp_path / "stopped")
    assert resumed.resume() and resumed.run()
    a, b = state_of(tmp_path / "whole"), state_of(tmp_path / "stopped")
    assert all(torch.equal(a[name], b[name]) for name in a)
    (tmp_path / "stopped" / "prior.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="missing or damaged"):
        resumed.run()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["prior.class_name=eleven"], "has no class 'eleven'"),
        (["prior.prompt=a circle"], "is not conditioned on captions"),
        (["prior.share=1"], "prior.share"),
        (["freeze=all,!new_words"], "no parameter of this model matches 'new_words'"),
    ],
)
def test_prior_and_new_words_must_fit_the_model(
    few: Path, tmp_path: Path, undiffuse: CommandLine, overrides: list[str], words: str
) -> None:
    line = undiffuse.rejected("train", "--from", few, "--data", "digits", "--out", tmp_path / "run", *SHORT, *overrides)
    assert words in line and not (tmp_path / "run").exists()


def test_prior_images_need_a_start_model(undiffuse: CommandLine) -> None:
    assert "name one with --from" in undiffuse.rejected("train", "flow-mnist", "prior.num=4")


def test_a_guide_is_stored_anew_from_the_fine_tuned_weights(with_guide: Path, tmp_path: Path) -> None:
    trainer = begun(with_guide, tmp_path)
    model, source = trainer.objective.model, load(with_guide, "cpu").module
    assert source.guide_stored and not model.guide_stored  # type: ignore[attr-defined]
    assert trainer.config.system.guide_images <= trainer.config.num_images // 5
    guide = model.guide.state_dict()
    assert all(torch.equal(guide[name], value) for name, value in model.network.state_dict().items())


def test_augmentations_keep_their_columns_by_name_and_new_ones_start_at_zero(tmp_path: Path) -> None:
    start, key = tmp_path / "start", "network.embedding.augment.weight"
    train_model("ddpm-digits", [*TINY, "num_images=32", "augment.scale=0.5", "augment.rotate=0.5"], out=start)
    old = load(start, "cpu").module.state_dict()[key]
    trainer = begun(start, tmp_path / "run", "augment.scale=0", "augment.translate=0.5")
    labels = trainer.augmenter.label_names
    known = json.loads((start / "config.json").read_text())["model"]["augment_labels"]
    new = trainer.objective.model.state_dict()[key]
    assert set(labels) - set(known) and set(labels) & set(known)
    for column, name in enumerate(labels):
        expected = old[:, known.index(name)] if name in known else torch.zeros(len(old))
        assert torch.equal(new[:, column], expected), name
