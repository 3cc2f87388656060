"""A GAN by the trainer of everything else: exact resume, stops, metrics in the log, samples, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine, assert_same_run, log_rows_of, run_until, trainer_of
from torch import Tensor

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run
from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.losses.adversarial import OBJECTIVES
from undiffuse.models.gan import GanModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.objectives.gan import GanObjective
from undiffuse.training.checkpoint import newest_checkpoint
from undiffuse.training.config import RunConfig
from undiffuse.training.nonfinite import NonFiniteError

TINY = (
    *("system.generator.channels=4", "system.discriminator.channels=4", "system.latent_size=8"),
    *("num_images=192", "batch_images=16", "log_every_images=32", "validate_every_images=96", "validation_images=32"),
    *("preview_every_images=0", "checkpoint_every_images=32"),
)
FEW = ("--num", 20)
NO_NORM = "system.discriminator.norm=none"
LOGIT_LAYER = "discriminator.verdict.linear"  # data
VARIANTS = {
    "plain": (),
    "conditional, spectral norm, hinge": (
        *("system.generator.name=residual", "system.discriminator.name=residual"),
        *("system.generator.channels=4", "system.discriminator.channels=4"),
        *("system.objective=hinge", "system.class_conditional=true", "system.label_dropout=0.2"),
    ),
    "three steps of a clipped critic": (
        *(
            "system.objective=wgan",
            "system.discriminator_steps=3",
            NO_NORM,
            "optimizer.phase_learning_rates.generator=1e-2",
        ),
    ),
    "gradient penalty in micro-batches": ("system.objective=wgan_gp", NO_NORM, "micro_batch_images=8"),
    "lazy R1 and R2 of pairs, bf16": (
        *("system.objective=relativistic", "system.objective.every=2", NO_NORM, "system.precision=bf16"),
    ),
    "unrolled": ("system.unrolled_steps=2",),
    "adaptive and differentiable augmentation": (
        *("system.augment=document", 'system.adaptive={"speed_images": 300, "target": -0.5}'),
        'system.diff_augment=["colour", "translation", "cutout"]',
    ),
}


def config_of(*overrides: str) -> RunConfig:
    return configure("dcgan-mnist", [*TINY, *overrides], "digits", None, False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_in_three_parts_ends_as_in_one(variant: str, tmp_path: Path) -> None:
    config = config_of(*VARIANTS[variant], "num_images=128", "checkpoint_every_images=96")
    assert trainer_of(config, tmp_path / "whole").run()
    run_until(config, tmp_path / "parts", 48)  # between two rows of the metrics log
    run_until(config, tmp_path / "parts", 112)
    run_until(config, tmp_path / "parts", 10**9)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional GAN of digits, barely trained; not to be changed."""
    out = tmp_path_factory.mktemp("gan") / "tiny"
    options = ("system.class_conditional=true", "preview_every_images=96")
    assert train_run(config_of(*options), out, device="cpu")
    return out


def objective_of(*overrides: str, shape: tuple[int, ...] = (1, 8, 8)) -> GanObjective:
    torch.manual_seed(0)
    system = config_of(*overrides).system.build(shape, ["a", "b", "c"])  # type: ignore[attr-defined]
    assert isinstance(system, GanObjective)
    return system.train()


@pytest.mark.parametrize(("setting", "same"), [("never", True), ("always", False)])
def test_bfloat16_is_taken_where_the_machine_multiplies_it(
    setting: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", f"bf16={setting}")
    half, full = (
        objective_of(f"system.precision={name}").eval().model.sample(SampleRequest.of([1, 2])).x
        for name in ("bf16", "fp32")
    )
    assert torch.equal(half, full) == same


def batch_of(count: int = 8, shape: tuple[int, ...] = (1, 8, 8)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, *shape, generator=generator) * 2 - 1
    return Batch(x, Given(label=torch.arange(count) % 3), torch.arange(count))


def gradients(system: GanObjective, phase: str, step: int = 0) -> dict[str, Tensor]:
    system.zero_grad()
    with system.learning(system.phase(phase)):
        system(batch_of(), phase, StepRandom(0, step)).loss.backward()
    return {name: value.grad.clone() for name, value in system.model.named_parameters() if value.grad is not None}


def test_zero_unrolled_steps_are_the_plain_gan_bit_for_bit() -> None:
    system = objective_of(NO_NORM)
    ours = gradients(system, "generator")
    system.zero_grad()
    z = StepRandom(0, 0).normal(torch.empty(8, 8), "latent generator")
    created = system.model.discriminator(system.model.generator(z, Condition()), Condition())
    OBJECTIVES["non_saturating"]().generator(created, created).mean().backward()
    plain = {name: value.grad for name, value in system.model.generator.named_parameters()}
    assert ours.keys() == {f"generator.{name}" for name in plain}
    assert all(torch.equal(ours[f"generator.{name}"], value) for name, value in plain.items() if value is not None)


@pytest.mark.parametrize(
    "options", [(NO_NORM,), ("system.discriminator.norm=batch",), ("system.discriminator.norm=spectral",)]
)
def test_looking_ahead_changes_the_generator_and_leaves_the_discriminator(options: tuple[str, ...]) -> None:
    plain, ahead = (
        objective_of(*options),
        objective_of(*options, "system.unrolled_steps=3", "system.unrolled_rate=0.01"),
    )
    before = {name: value.clone() for name, value in ahead.model.discriminator.state_dict().items()}
    one, other = gradients(plain, "generator"), gradients(ahead, "generator")
    assert one.keys() == other.keys() and all(name.startswith("generator.") for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    after = ahead.model.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_discriminators_turn_moves_no_weight_of_the_generator() -> None:
    assert all(name.startswith("discriminator.") for name in gradients(objective_of(), "discriminator"))


def test_the_generator_moves_every_third_step(tmp_path: Path) -> None:
    config = config_of("system.discriminator_steps=3")
    trainer = trainer_of(config, tmp_path)
    assert [len(trainer.objective.phases_due(step)) for step in range(6)] == [1, 1, 2, 1, 1, 2]
    weights = [value.clone() for value in trainer.objective.phase("generator").parameters()]
    for moved in (False, False, True):
        trainer._one_step()
        now = trainer.objective.phase("generator").parameters()
        assert all(torch.equal(a, b) for a, b in zip(weights, now, strict=True)) is not moved


def test_clipping_and_rates_by_phase(tmp_path: Path) -> None:
    rates = ("optimizer.learning_rate=1.0", "optimizer.phase_learning_rates.generator=1e-9")
    trainer = trainer_of(config_of("system.objective=wgan", "system.objective.clip=0.03", NO_NORM, *rates), tmp_path)
    before = [value.clone() for value in trainer.objective.phase("generator").parameters()]
    trainer._one_step()
    system = trainer.objective
    assert max(
        float(value.detach().abs().max()) for value in system.phase("discriminator").parameters()
    ) == pytest.approx(0.03)
    drift = [
        float((a - b).detach().abs().max()) for a, b in zip(before, system.phase("generator").parameters(), strict=True)
    ]
    assert 0 < max(drift) < 1e-7


def test_penalties_and_lazy_ones_enter_the_loss() -> None:
    system = objective_of("system.objective=wgan_gp", "system.objective.r1=2.0", "system.objective.every=4", NO_NORM)
    due, free = (system(batch_of(), "discriminator", StepRandom(0, step)) for step in (4, 5))
    assert {"r1", "gradient_penalty"} <= set(due.metrics) and not {"r1", "gradient_penalty"} & set(free.metrics)
    penalty_terms = due.metrics["r1"] + due.metrics["gradient_penalty"]
    assert torch.allclose(due.loss, due.metrics["discriminator_loss"] + 4 * penalty_terms)
    system.eval()
    with torch.no_grad():
        assert set(system(batch_of(), "discriminator", StepRandom(0, 4)).metrics) == {
            "discriminator_loss",
            "d_real",
            "d_fake",
        }


def test_adaptive_augmentation_follows_the_overfitting(tmp_path: Path) -> None:
    config = config_of(*VARIANTS["adaptive and differentiable augmentation"], "num_images=512")
    trainer = trainer_of(config, tmp_path)
    trainer.run()
    rows = [row for row in log_rows_of(tmp_path) if row["kind"] == "train"]
    assert rows[0]["p"] == 0 and rows[-1]["p"] > 0, "no discriminator calls nearly all data false"
    kept = newest_checkpoint(tmp_path / "checkpoints")[0]
    assert (
        kept is not None
        and kept.tensors["training.augment.adaptive.p"] == trainer.objective.state()["augment.adaptive.p"]
    )
    assert not [name for name in load(tmp_path).module.state_dict() if name.startswith("augment")]


def test_metrics_reach_the_log(model: Path) -> None:
    training = [row for row in log_rows_of(model) if row["kind"] == "train"]
    names = {"discriminator_loss", "generator_loss", "d_real", "d_fake", "r_t", "grad_norm_generator"}
    assert names <= set(training[-1])
    assert training[-1]["loss"] == pytest.approx(training[-1]["discriminator_loss"])
    held_out = [row for row in log_rows_of(model) if row["kind"] == "validation"][-1]
    assert held_out["d_real_gap"] == pytest.approx(held_out["d_real_train"] - held_out["d_real"])
    assert (model / "previews").is_dir()


def test_the_batch_size_changes_no_bit(model: Path) -> None:
    system = load(model).module
    cond = Condition(label=torch.arange(23) % 10)
    whole = system.sample(SampleRequest.of(range(5, 28), cond=cond)).x
    parts = system.sample(SampleRequest.of(range(5, 28), cond=cond, batch_size=7)).x
    lone = system.sample(SampleRequest.of([9], cond=cond.select(slice(4, 5)))).x
    assert torch.equal(whole, parts) and torch.equal(whole[4:5], lone)
    assert isinstance(system, GanModel)
    assert torch.equal(system.decode(system.latents(range(5, 28)), cond), whole)
    assert system.sample(SampleRequest.of([])).x.shape == (0, 1, 8, 8)
    logits = system.discriminator_logits(whole, cond)
    assert logits.shape == (23,) and torch.allclose(
        system.discriminator_logits(whole[:5], cond.select(slice(5))), logits[:5]
    )


def test_every_command_works_on_a_gan_or_reports_why_not(model: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("sample", model, "-n", 3, "--class", "4", "--out", tmp_path / "drawn")
    record = json.loads((tmp_path / "drawn" / "samples.json").read_text())
    assert record["nfe"] == 1 and record["images"][0]["class"] == "4"
    denoising = (
        ("--temperature", 0.9),
        ("--steps", 5),
        ("--sampler", "heun"),
        ("--grid", "uniform"),
        ("--process", "ve"),
        ("--cache-interval", 2),
    )
    for option in (*denoising, ("--guidance", 2), ("--guidance-interval", "-3,4"), ("--autoguidance-interval", "-3,4")):
        line = undiffuse.rejected("sample", model, "-n", 1, *option, "--out", tmp_path / "no")
        assert "in one evaluation" in line
    assert "generate unconditional" in undiffuse.rejected(
        "sample", model, "-n", 1, "--no-class", "--out", tmp_path / "no"
    )
    undiffuse.fine("evaluate", model, *FEW, "--metrics", "kernel", "--out", tmp_path / "e.json")
    assert "a denoising model" in undiffuse.rejected("evaluate", model, *FEW, "--metrics", "nll")
    assert "a denoising model" in undiffuse.rejected("export", model, "--temperature", 0.9, "--out", tmp_path / "no")
    undiffuse.fine("doctor", model, *FEW)
    undiffuse.fine("report", model, "--out", tmp_path / "report.html")


def test_a_logit_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    trainer = trainer_of(config_of(), tmp_path)
    layer = trainer.objective.model.get_submodule(LOGIT_LAYER)
    layer.register_forward_hook(lambda module, inputs, output: output * (torch.nan if trainer.step == 3 else 1.0))
    with pytest.raises(NonFiniteError, match=rf"the loss is not finite at step 3 .*{LOGIT_LAYER}"):
        trainer.run()
    assert (tmp_path / "nonfinite_step_3" / "report.json").is_file()


@pytest.mark.parametrize("objective", ["wgan_gp", "relativistic"])
def test_a_loss_with_penalties_that_is_not_finite_leaves_its_evidence(objective: str, tmp_path: Path) -> None:
    """The step is repeated to find the cause, and a penalty differentiates within it."""
    trainer = trainer_of(config_of(f"system.objective={objective}", NO_NORM), tmp_path)
    layer = trainer.objective.model.get_submodule(LOGIT_LAYER)
    layer.register_forward_hook(lambda module, inputs, output: output * (torch.nan if trainer.step == 2 else 1.0))
    with pytest.raises(NonFiniteError, match=rf"the loss is not finite at step 2 .*{LOGIT_LAYER}"):
        trainer.run()
    assert (tmp_path / "nonfinite_step_2" / "report.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("system.objective=wgan_gp",), "batch norm"),
        (("system.objective=hinge", "system.objective.r1=1"), "batch norm"),
        (("system.objective=hing",), "did you mean 'hinge'"),
        (("system.objective.r1=-1",), "of at least 0"),
        (('system.adaptive={"target": 0.6}',), "which is disabled"),
        (
            ('system.adaptive={"target": 0.6}', "system.augment=document", "system.objective=wgan"),
            "whose threshold is not 0",
        ),
        (('system.diff_augment=["color"]',), "diff_augment"),
    ],
)
def test_configurations_that_make_no_sense(overrides: tuple[str, ...], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        config_of(*overrides).system.build((1, 8, 8), ["a"])  # type: ignore[attr-defined]


def test_what_does_not_fit_the_data_or_the_phases(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'generator'"):
        trainer_of(config_of("optimizer.phase_learning_rates.generato=1e-3"), tmp_path)
    with pytest.raises(UsageError, match=r"augment\.condition=false"):
        trainer_of(config_of("augment=document"), tmp_path)
    with pytest.raises(UsageError, match="no classes"):
        config_of("system.class_conditional=true").system.build((1, 8, 8), [])  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="images"):
        options = ['system.diff_augment=["colour"]', "system.generator.name=mlp", "system.discriminator.name=mlp"]
        configure("dcgan-mnist", options, "digits", None, False).system.build((2,), [])  # type: ignore[attr-defined]


def test_points_are_created_as_well(tmp_path: Path) -> None:
    config = configure(
        "unrolled-gan-rings", ["num_images=2048", "batch_images=256", "data.num_points=600"], None, None, False
    )
    trainer = trainer_of(config, tmp_path)
    trainer.run()
    points = load(tmp_path).sample(50)
    assert points.shape == (50, 2) and bool(np.isfinite(points.numpy()).all())
