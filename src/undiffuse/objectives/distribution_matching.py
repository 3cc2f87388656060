"""Distribution matching distillation: the student matches the teacher's distribution of noised samples.

Two networks are trained in alternating phases, the first one more often. The fake score is a diffusion model of the
student's current samples; the student's gradient is the difference between the denoised samples of the fake score and
of the teacher. The student samples in the number of steps that it is trained for, each of which predicts x_0 and adds
new noise of the next time. Later steps are trained on the output of the preceding steps, as in sampling.

With an adversarial loss, a discriminator (a head on the fake score's intermediate features) learns to distinguish
noised data from noised samples, and the student to be classified as data, so that it can improve on its teacher.

Source: Yin et al. 2024, arXiv:2311.18828 and arXiv:2405.14867 (its sec. 4.3: the adversarial loss; sec. 4.4:
backward simulation); see ``losses.distribution_matching`` and ``losses.adversarial``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from undiffuse.compute.threaded_batch import threaded
from undiffuse.config import Component, ComponentConfig, FrozenModel, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import NetworkDenoiser
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.losses.adversarial import non_saturating
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity, uniform
from undiffuse.losses.distribution_matching import matching_direction, matching_loss
from undiffuse.losses.draws import stratified
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.losses.weighting import flow as flow_weighting
from undiffuse.models.base import GenerativeModel
from undiffuse.models.denoising import DenoisingConfig, DenoisingModelConfig, NetworkModel
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.feature_discriminator import FeatureDiscriminator, discriminator_head
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, Phase, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components
from undiffuse.objectives.rules import check_density
from undiffuse.objectives.teacher import LazyTeacher, TeacherConfig, check_start, copy_of, denoiser_under, init_as
from undiffuse.samplers.grids import time_grid

FAKE_SCORE, STUDENT = "fake_score", "student"
#: Range of log-SNRs at which the two distributions are compared; beyond it, there is almost no noise or no signal.
_COMPARED = (-8.0, 8.0)
_ADVERSARIAL = non_saturating()
#: Name of the head among the objective's modules and in checkpoints.
_HEAD = "judge"  # data


class AdversarialConfig(FrozenModel):
    """A non-saturating adversarial loss between student and discriminator, at the times of the matching loss.

    S is softplus, r and f are the logits of noised data and noised samples.

    Args:
        student: weight of the student's loss S(-f), added to the matching loss.
        discriminator: weight of the discriminator's loss S(-r) + S(f), added to the fake score's loss.
    """

    student: Annotated[float, Field(gt=0)] = 3e-3
    discriminator: Annotated[float, Field(gt=0)] = 1e-2
    renamed_keys: ClassVar = {"judge": "discriminator"}  # data


class DistributionMatchingConfig(DenoisingConfig, ObjectiveConfig):
    """Configuration of distribution matching. Process, parameterization and network must match the teacher.

    Args:
        teacher: model whose distribution is matched, including its guidance but not its temperature.
        start: model that initializes the student, preferably a few-step model; the teacher by default.
        fake_score_steps: fake score updates per student update.
        weighting: weighting of the fake score's denoising loss.
        time_density: distribution of the times at which the distributions are compared and the fake score is trained.
        simulate: train steps after the first on noised samples of the student, as in sampling (backward simulation);
            otherwise on noised data.
        adversarial: also train a discriminator and the student against it; ``null`` for the matching loss only.
        sampling: the student is trained on the steps of this grid, for the sampler ``consistency``.
    """

    name: Literal["distribution_matching"] = "distribution_matching"
    teacher: TeacherConfig
    start: TeacherConfig | None = None
    fake_score_steps: Annotated[int, Field(ge=1)] = 2
    simulate: bool = True
    adversarial: AdversarialConfig | None = None
    weighting: Annotated[ComponentConfig, Component(WEIGHTINGS, "weighting")] = default_of("flow", flow_weighting)
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of("uniform", uniform)
    sampling: SamplingConfig = SamplingConfig(sampler="consistency", num_steps=1, grid="angle")
    renamed_keys: ClassVar = {"game": "adversarial"}  # data

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        process = check_components(self)
        check_density(self)
        check_start(self.parameterization, process)
        return self

    def component(self) -> DenoisingModelConfig:
        return model_config_from(DenoisingModelConfig, self)

    def around(self, model: GenerativeModel) -> DistributionMatchingObjective:
        assert isinstance(model, NetworkModel)
        return DistributionMatchingObjective(model, self)


class DistributionMatchingObjective(Objective[NetworkModel]):
    """The matching loss with a fake score, and optionally the adversarial loss; see ``DistributionMatchingConfig``.

    Args:
        model: the student.
        config: configuration of the losses; its model options match ``model``.
    """

    def __init__(self, model: NetworkModel, config: DistributionMatchingConfig) -> None:
        super().__init__(model)
        self.config = config
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._teacher = LazyTeacher(config.teacher)
        self.fake_score: nn.Module | None = None  # set in training only
        self.add_module(_HEAD, discriminator_head(model.network) if config.adversarial is not None else None)

    @property
    def head(self) -> nn.Module | None:
        """The discriminator's head; None without an adversarial loss."""
        return self._modules[_HEAD]

    @property
    def loss_available(self) -> bool:
        """Always False: the loss is computed on samples and does not measure the fit to an image."""
        return False

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake = [network for network in (self.fake_score, self.head) if network is not None]
        return (
            Phase(FAKE_SCORE, tuple(fake)),
            Phase(STUDENT, (self.model.network,), every=self.config.fake_score_steps),
        )

    @property
    def _fake_network(self) -> nn.Module:
        if self.fake_score is None:
            raise UsageError("the fake score of distribution matching exists in training only; resume the run")
        return self.fake_score

    def begin(self, device: torch.device) -> None:
        """Load the teacher and initialize both networks with its weights, or the student with those of ``start``."""
        init_as(self.model, self._teacher.on(device))
        self.fake_score = copy_of(self.model.network, learns=True)
        if self.config.start is not None:
            init_as(self.model, LazyTeacher(self.config.start, "start").on(device))

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        self._fake_network.train(self.training and phase == FAKE_SCORE)
        cond = self.model.conditioner.for_training(batch.given, batch.x_0, rng)
        t = self._comparison_times(stratified(rng.uniform(len(batch.x_0), f"time {phase}")))
        with torch.set_grad_enabled(phase == STUDENT and torch.is_grad_enabled()):
            generated = self._generate(batch.x_0, cond, phase, rng)
        eps = rng.normal(generated, f"eps {phase}")
        with rng.layers():
            if phase == STUDENT:
                return self._student_loss(generated, eps, t, cond)
            report = self._fake_score_loss(generated, eps, t, cond)
            if self.config.adversarial is None:
                return report
            data = self.model.process.diffuse(batch.x_0, rng.normal(batch.x_0, "eps data"), t)
            loss, metrics = self._discriminator_loss(data, self.model.process.diffuse(generated, eps, t), t, cond)
            return report._replace(loss=report.loss + self.config.adversarial.discriminator * loss, metrics=metrics)

    def _fake_score_loss(self, generated: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> LossReport:
        losses = denoising_loss(self._fake_score_denoiser(), generated, eps, t, self._log_weight, cond)
        return LossReport(losses.mean(), losses.detach(), t)

    def _discriminator_loss(
        self, data: Tensor, samples: Tensor, t: Tensor, cond: Condition
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss () on noised data and noised samples, and the mean logits."""
        real, fake = self._logits(data, t, cond), self._logits(samples, t, cond)
        metrics = {"judge_real": real.mean().detach(), "judge_fake": fake.mean().detach()}  # data
        return _ADVERSARIAL.discriminator(real, fake).mean(), metrics

    def _logits(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The discriminator's logits (B,) of noised images (B, C, H, W)."""
        assert self.head is not None  # set with an adversarial loss
        discriminator = threaded(FeatureDiscriminator(self._fake_network, self.head))
        return self.model.denoiser_of(discriminator).output(x_t, t, cond)

    def _student_loss(self, generated: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> LossReport:
        x_t = self.model.process.diffuse(generated, eps, t)
        with torch.no_grad():
            denoiser = self._teacher.on(generated.device).teacher_denoiser()
            teacher = denoiser_under(denoiser, self.model.process)(x_t, t, cond).x_0
            fake_x_0 = self.model.clipped(self._fake_score_denoiser())(x_t, t, cond).x_0
        direction = matching_direction(generated, teacher, fake_x_0)
        losses, metrics = matching_loss(generated, direction), {"matching": direction.abs().mean()}
        if self.config.adversarial is not None:
            fake = self._logits(x_t, t, cond)
            generator = _ADVERSARIAL.generator(torch.zeros_like(fake), fake)
            losses = losses + self.config.adversarial.student * generator
            metrics = {**metrics, "passing": generator.mean().detach()}
        return LossReport(losses.mean(), losses.detach(), t, metrics)

    def _generate(self, x_0: Tensor, cond: Condition, phase: str, rng: StepRandom) -> Tensor:
        """The student's x_0 prediction at one of its steps, drawn at random for each sample."""
        count, sampling = len(x_0), self.config.sampling
        times = time_grid(sampling.grid, self.model.process, sampling.num_steps, self.model.log_snr_range).to(
            x_0.device
        )
        step = (rng.uniform(count, f"step {phase}") * sampling.num_steps).long().clamp(max=sampling.num_steps - 1)
        if self.config.simulate:
            x_t = self._simulate(x_0, cond, times, step, phase, rng)
        else:
            x_t = self.model.process.diffuse(x_0, rng.normal(x_0, f"start {phase}"), times[step])
        with rng.layers():
            generated: Tensor = self.model.threaded_denoiser()(x_t, times[step], cond).x_0
        return generated

    @torch.no_grad()
    def _simulate(
        self, like: Tensor, cond: Condition, times: Tensor, step: Tensor, phase: str, rng: StepRandom
    ) -> Tensor:
        """x_t (B, ...) at the start of each sample's ``step``, sampled from noise by the student's preceding steps.

        As in sampling, dropout is disabled.
        """
        x_t = self.model.process.start_std(float(times[0])) * rng.normal(like, f"start {phase}")
        training = self.model.network.training
        self.model.network.eval()
        denoiser = self.model.clipped(self.model.threaded_denoiser())
        for number, (t, s) in enumerate(pairwise(times[:-1])):
            noise = rng.normal(like, f"again {number} {phase}")
            later = step > number
            rows = self._rows_to_evaluate(later)
            generated = denoiser(x_t[rows], t.expand(len(rows)), cond.select(rows)).x_0
            noised = self.model.process.diffuse(generated, noise[rows], s.expand(len(rows)))
            x_t[later] = noised[later[rows]]
        self.model.network.train(training)
        return x_t

    def _rows_to_evaluate(self, mask: Tensor) -> Tensor:
        """Indices of the samples in ``mask``; all indices if the network is compiled, to avoid recompilation."""
        compiled = self.model.network._compiled_call_impl is not None
        return (mask | compiled).nonzero().flatten()

    def _comparison_times(self, u: Tensor) -> Tensor:
        """Map uniform numbers to times (B,) within the range of compared log-SNRs."""
        return self.model.process.time_of_log_snr(
            self.model.process.log_snr(self._density(self.model.process, u)).clamp(*_COMPARED)
        )

    def _fake_score_denoiser(self) -> NetworkDenoiser:
        return self.model.denoiser_of(threaded(self._fake_network))
