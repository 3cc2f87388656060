"""Distribution matching: a student whose samples, noised, are to be distributed as the teacher's, by whatever paths.

Two networks learn in turns, the first more often. The fake score is a diffusion model of the student's present samples;
the student moves its samples from where that says they are towards where the teacher says the data are. It makes a
sample in as many steps as it is taught, each of which jumps to x_0 and adds fresh noise down to the next time. A step
after the first is taught on what the steps before it make, for that is what it meets in sampling.

Source: Yin et al. 2024, arXiv:2311.18828 and arXiv:2405.14867 (its sec. 4.4: the steps before are simulated); see
``losses.distribution_matching``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from undiffuse.compute.shards import sharded
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import NetworkDenoiser
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity, uniform
from undiffuse.losses.distribution_matching import matching_direction, matching_loss
from undiffuse.losses.draws import stratified
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.losses.weighting import flow as flow_weighting
from undiffuse.samplers.grids import time_grid
from undiffuse.systems.base import LossReport, TrainingBatch
from undiffuse.systems.sampled import SampledConfig, SampledSystem
from undiffuse.systems.sampling import SamplingConfig
from undiffuse.systems.teacher import OutOfSight, Taught, TeacherConfig, begin_as, check_start, denoiser_under

FAKE_SCORE, STUDENT = "fake_score", "student"
#: Log-SNRs at which the two distributions are compared; beyond, they are all data or all noise.
_COMPARED = (-8.0, 8.0)


class DistributionMatchingConfig(SampledConfig):
    """Process, parameterization and network are those of the teacher.

    Args:
        teacher: the model whose distribution is matched, as it samples by default, guidance included.
        start: a model whose weights the student begins with, best one of few steps already; the teacher by default.
        fake_score_steps: of the fake score for each of the student.
        weighting: of the fake score's denoising loss.
        time_density: where in time the two distributions are compared and the fake score learns.
        simulate: teach a step after the first on the student's own samples, noised again, as it meets them in
            sampling; or else on noised data.
        sampling: the student is taught the steps of this grid, taken by the sampler ``consistency``.
    """

    name: Literal["distribution_matching"] = "distribution_matching"
    teacher: TeacherConfig
    start: TeacherConfig | None = None
    fake_score_steps: Annotated[int, Field(ge=1)] = 2
    simulate: bool = True
    weighting: Annotated[ComponentConfig, Component(WEIGHTINGS, "weighting")] = default_of("flow", flow_weighting)
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of("uniform", uniform)
    sampling: SamplingConfig = SamplingConfig(sampler="consistency", num_steps=1, grid="angle")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        process: Process = build(PROCESSES, self.process)
        check_start(self.parameterization, process)
        build(WEIGHTINGS, self.weighting)
        build(TIME_DENSITIES, self.time_density)(process, torch.full((1,), 0.5))
        return self

    def build(
        self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> DistributionMatchingSystem:
        return DistributionMatchingSystem(self, shape, class_names, num_augment_labels)


class DistributionMatchingSystem(SampledSystem):
    """See ``DistributionMatchingConfig``."""

    phases = (FAKE_SCORE, STUDENT)
    config: DistributionMatchingConfig

    def __init__(
        self,
        config: DistributionMatchingConfig,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        num_augment_labels: int = 0,
    ) -> None:
        super().__init__(config, shape, class_names, num_augment_labels)
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._taught = Taught(config.teacher)
        self._fake_score = OutOfSight(FAKE_SCORE)

    @property
    def loss_at_hand(self) -> bool:
        """It is about samples and no pictures."""
        return False

    def turns(self, step: int) -> tuple[str, ...]:
        last = (step + 1) % self.config.fake_score_steps == 0
        return self.phases if last else self.phases[:1]

    def parameters_of(self, phase: str) -> list[nn.Parameter]:
        return list({FAKE_SCORE: self._fake_network, STUDENT: self.network}[phase].parameters())

    @property
    def _fake_network(self) -> nn.Module:
        if self._fake_score.network is None:
            raise UsageError("a student of distribution matching has its fake score in training alone: resume its run")
        return self._fake_score.network

    def begin_training(self, device: torch.device) -> None:
        """Fetch the teacher, as which both networks begin, or the student as ``start``."""
        begin_as(self, self._taught.on(device))
        self._fake_score.become(self.network, learns=True)
        if self.config.start is not None:
            begin_as(self, Taught(self.config.start, "start").on(device))

    def training_state(self) -> dict[str, Tensor]:
        return self._fake_score.tensors()

    def load_training_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._fake_score.load(tensors)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        self._fake_network.train(self.training and phase == FAKE_SCORE)
        cond = self.drop_labels(batch.condition, len(batch.x_0), rng)
        t = self._compared_at(stratified(rng.uniform(len(batch.x_0), f"time {phase}")))
        with torch.set_grad_enabled(phase == STUDENT and torch.is_grad_enabled()):
            made = self._made(batch.x_0, cond, phase, rng)
        eps = rng.normal(made, f"eps {phase}")
        turn = self._student_turn if phase == STUDENT else self._fake_score_turn
        with rng.layers():
            return turn(made, eps, t, cond)

    def _fake_score_turn(self, made: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> LossReport:
        rows = denoising_loss(self._fake_score_denoiser(), made, eps, t, self._log_weight, cond)
        return LossReport(rows.mean(), rows.detach(), t)

    def _student_turn(self, made: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> LossReport:
        with torch.no_grad():
            x_t = self.process.diffuse(made, eps, t)
            teacher = denoiser_under(self._taught.on(made.device).teaching_denoiser(), self.process)(x_t, t, cond).x_0
            own = self.cut(self._fake_score_denoiser())(x_t, t, cond).x_0
        direction = matching_direction(made, teacher, own)
        rows = matching_loss(made, direction)
        return LossReport(rows.mean(), rows.detach(), t, {"matching": direction.abs().mean()})

    def _made(self, x_0: Tensor, cond: Condition, phase: str, rng: StepRandom) -> Tensor:
        """What the student makes at one of its steps, drawn for each row."""
        count, sampling = len(x_0), self.config.sampling
        times = time_grid(sampling.grid, self.process, sampling.num_steps, self.log_snr_range).to(x_0.device)
        step = (rng.uniform(count, f"step {phase}") * sampling.num_steps).long().clamp(max=sampling.num_steps - 1)
        if self.config.simulate:
            x_t = self._reached(x_0, cond, times, step, phase, rng)
        else:
            x_t = self.process.diffuse(x_0, rng.normal(x_0, f"start {phase}"), times[step])
        with rng.layers():
            made: Tensor = self.sharded_denoiser()(x_t, times[step], cond).x_0
        return made

    @torch.no_grad()
    def _reached(
        self, like: Tensor, cond: Condition, times: Tensor, step: Tensor, phase: str, rng: StepRandom
    ) -> Tensor:
        """x_t (B, ...) where each row's ``step`` begins: pure noise, taken on by the student's own steps before it.

        They are taken as in sampling, without dropout.
        """
        x_t = self.process.start_std(float(times[0])) * rng.normal(like, f"start {phase}")
        training = self.network.training
        self.network.eval()
        denoiser = self.cut(self.sharded_denoiser())
        for number, (t, s) in enumerate(pairwise(times[:-1])):
            fresh = rng.normal(like, f"again {number} {phase}")
            later = step > number
            rows = self._rows_to_evaluate(later)
            made = denoiser(x_t[rows], t.expand(len(rows)), cond.select(rows)).x_0
            noised = self.process.diffuse(made, fresh[rows], s.expand(len(rows)))
            x_t[later] = noised[later[rows]]
        self.network.train(training)
        return x_t

    def _rows_to_evaluate(self, wanted: Tensor) -> Tensor:
        """Numbers of the rows that are wanted; of all where another size of batch would be compiled anew."""
        compiled = self.network._compiled_call_impl is not None
        return (wanted | compiled).nonzero().flatten()

    def _compared_at(self, u: Tensor) -> Tensor:
        """Times (B,) of uniform numbers, within the log-SNRs that are compared."""
        return self.process.time_of_log_snr(self.process.log_snr(self._density(self.process, u)).clamp(*_COMPARED))

    def _fake_score_denoiser(self) -> NetworkDenoiser:
        return self._denoiser_of(sharded(self._fake_network))
