"""The adversarial loss of distribution matching: student against a discriminator on the fake score's features."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.compute import threaded_batch
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.losses.draws import stratified
from undiffuse.networks.feature_discriminator import FeatureDiscriminator, discriminator_head
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.objectives.distribution_matching import (
    FAKE_SCORE,
    STUDENT,
    DistributionMatchingConfig,
    DistributionMatchingObjective,
)
from undiffuse.objectives.teacher import copy_of

NETWORK = {"name": "unet", "channels": 8, "multipliers": [1, 2], "num_blocks": 1, "norm_groups": 4}
SHAPE = (1, 8, 8)


class Rows(NamedTuple):
    """A batch."""

    x_0: Tensor
    given: Given


class Held:
    """A ``LazyTeacher`` whose teacher is loaded."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        self.teacher = teacher

    def on(self, device: torch.device) -> torch.nn.Module:
        return self.teacher


def batch_of(mean: float = 0.0, count: int = 12) -> Rows:
    images = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.3 + mean
    return Rows(images, Given(label=torch.arange(count) % 2))


def student_of(
    adversarial: dict[str, float] | None = None, seed: int = 0, **options: object
) -> DistributionMatchingObjective:
    """A student whose fake score and discriminator are at their random start."""
    torch.manual_seed(seed)
    options = {"network": NETWORK, "precision": "fp32", "class_conditional": True, "label_dropout": 0.0, **options}
    teacher = validate(DiffusionConfig, {"name": "diffusion", **options}).build(SHAPE, ("a", "b")).model
    more = {"teacher": {"path": "nowhere"}, **({} if adversarial is None else {"adversarial": adversarial})}
    student = validate(DistributionMatchingConfig, {**options, **more}).build(SHAPE, ("a", "b"))
    assert isinstance(student, DistributionMatchingObjective)
    torch.manual_seed(seed)  # whether there was a head to draw or not
    for network in (teacher, student.model.network):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0, 0.15)
    student._teacher = Held(teacher.eval().requires_grad_(False))  # type: ignore[assignment]
    student.fake_score = copy_of(teacher.network, learns=True)
    return student


def logits_of(student: DistributionMatchingObjective, phase: str, x: Tensor, eps: str) -> tuple[Tensor, Tensor]:
    """The discriminator's logits of x, noised as in that phase, and the noised images."""
    rng = StepRandom(0, 0)
    t = student._comparison_times(stratified(rng.uniform(len(x), f"time {phase}")))
    x_t = student.model.process.diffuse(x, rng.normal(x, eps), t)
    scaled, c_noise = student.model.parameterization.network_input(x_t, t)
    assert student.head is not None
    discriminator = FeatureDiscriminator(student._fake_network, student.head)
    out: Tensor = discriminator(scaled, c_noise, Condition(label=torch.arange(len(x)) % 2))
    return out, x_t


def test_the_discriminator_learns_to_report_noised_data_from_noised_samples() -> None:
    """Its loss is S(-r) + S(f), added to the denoising loss, which stays as it was."""
    student, plain, rng = student_of({"discriminator": 0.7}), student_of(), StepRandom(0, 0)
    batch = batch_of(mean=0.5)
    report, without = student(batch, FAKE_SCORE, rng), plain(batch, FAKE_SCORE, rng)
    created = student._generate(batch.x_0, Condition(label=batch.given.label), FAKE_SCORE, rng).detach()
    real, _ = logits_of(student, FAKE_SCORE, batch.x_0, "eps data")
    fake, _ = logits_of(student, FAKE_SCORE, created, f"eps {FAKE_SCORE}")
    penalty_terms = 0.7 * (F.softplus(-real) + F.softplus(fake)).mean()
    torch.testing.assert_close(report.per_sample, without.per_sample)
    torch.testing.assert_close(report.loss, without.loss + penalty_terms)
    torch.testing.assert_close(report.metrics["judge_real"], real.mean())  # data
    torch.testing.assert_close(report.metrics["judge_fake"], fake.mean())  # data


def test_the_student_follows_the_discriminator_and_the_teacher() -> None:
    """Its gradient is that of matching and the weight times that of S(-f)."""
    gradients = {}
    for weight in (None, 0.4):
        student = student_of(None if weight is None else {"student": weight})
        student(batch_of(), STUDENT, StepRandom(0, 0)).loss.backward()
        gradients[weight] = [parameter.grad for parameter in student.model.network.parameters()]
    student = student_of({"student": 0.4})
    batch = batch_of()
    created = student._generate(batch.x_0, Condition(label=batch.given.label), STUDENT, StepRandom(0, 0))
    fake, _ = logits_of(student, STUDENT, created, f"eps {STUDENT}")
    passing = torch.autograd.grad(0.4 * F.softplus(-fake).mean(), list(student.model.network.parameters()))
    assert max(float(one.abs().max()) for one in passing) > 1e-4
    for both, matching, own in zip(gradients[0.4], gradients[None], passing, strict=True):
        assert both is not None and matching is not None
        torch.testing.assert_close(both, matching + own, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("phase", [FAKE_SCORE, STUDENT])
def test_each_phase_moves_its_own_networks(phase: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded_batch, "num_parts", lambda: count)
    student = student_of({})
    with student.learning(student.phase(phase)):
        student(batch_of(), phase, StepRandom(0, 0)).loss.backward()
    own = student.phase(phase).parameters()
    moved = {id(parameter) for parameter in own if parameter.grad is not None}
    assert moved == {id(parameter) for parameter in own}
    others = {FAKE_SCORE: STUDENT, STUDENT: FAKE_SCORE}
    assert all(parameter.grad is None for parameter in student.phase(others[phase]).parameters())


@pytest.mark.slow
def test_a_trained_discriminator_separates_them_and_a_student_comes_to_deceive_it() -> None:
    """Bright data, dark samples: the discriminator sees it; the student grows brighter though its teacher is dark."""
    student, bright = student_of({"student": 1.0, "discriminator": 1.0}), batch_of(mean=0.8, count=16)
    optimizers = {p: torch.optim.Adam(student.phase(p).parameters(), lr=2e-3) for p in (FAKE_SCORE, STUDENT)}

    def step_of(phase: str, step: int) -> dict[str, Tensor]:
        optimizers[phase].zero_grad()
        with student.learning(student.phase(phase)):
            report = student(bright, phase, StepRandom(0, step))
            report.loss.backward()
        optimizers[phase].step()
        return report.metrics

    def brightness() -> float:
        with torch.no_grad():
            return float(
                student._generate(bright.x_0, Condition(label=bright.given.label), STUDENT, StepRandom(1, 0)).mean()
            )

    for step in range(30):
        metrics = step_of(FAKE_SCORE, step)
    assert float(metrics["judge_real"] - metrics["judge_fake"]) > 1  # data
    before = brightness()
    for step in range(30, 60):
        step_of(FAKE_SCORE, step)
        step_of(STUDENT, step)
    assert brightness() > before + 0.2


def test_the_discriminator_goes_into_checkpoints_and_not_into_the_model() -> None:
    student, other = student_of({}), student_of({}, seed=1)
    assert not [name for name in student.model.state_dict() if "judge" in name]  # data
    kept = student.state()
    assert {name.split(".")[0] for name in kept} == {FAKE_SCORE, "judge"}  # data
    other.load_state(kept)
    for name, value in other.state().items():
        assert torch.equal(value, kept[name]), name


def test_without_an_adversarial_loss_there_is_no_discriminator() -> None:
    student = student_of()
    assert {name.split(".")[0] for name in student.state()} == {FAKE_SCORE}
    assert len(student.phase(FAKE_SCORE).parameters()) == len(student.phase(STUDENT).parameters())


def test_a_network_without_a_middle_is_rejected() -> None:
    options = {"network": {"name": "mlp", "width": 8, "num_blocks": 1}, "teacher": {"path": "nowhere"}}
    with pytest.raises(UsageError, match=r"middle features of a U-Net.*leave system\.adversarial out"):
        validate(DistributionMatchingConfig, {**options, "adversarial": {}}).build((2,), ())


def test_the_head_reads_features_of_any_layout() -> None:
    torch.manual_seed(0)
    head = discriminator_head(student_of().model.network)
    features = torch.randn(3, 16, 4, 4)
    assert head(features).shape == (3,)
    torch.testing.assert_close(head(features.contiguous(memory_format=torch.channels_last)), head(features))


def test_names_of_earlier_versions_are_read() -> None:
    options = {"network": NETWORK, "teacher": {"path": "nowhere"}}
    earlier = validate(DistributionMatchingConfig, {**options, "game": {"judge": 0.5}})  # data
    now = validate(DistributionMatchingConfig, {**options, "adversarial": {"discriminator": 0.5}})
    assert earlier == now and earlier.model_dump(mode="json") == now.model_dump(mode="json")
    with pytest.raises(UsageError, match="'game' is the earlier name of 'adversarial'"):  # data
        validate(DistributionMatchingConfig, {**options, "game": {}, "adversarial": {}})  # data
