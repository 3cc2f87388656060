"""Progressive distillation: a student learns to do in one step what its teacher does in two, then takes its place.

A run goes through stages, a function of the images seen and nothing else. The averaged weights at a stage's end are
the next stage's teacher, and the student goes on from them. Without a trained model to start from, the first stage
trains one.

Source: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.compute.shards import sharded
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss, output_error
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity, uniform
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.losses.progressive import two_step_target
from undiffuse.losses.weighting import WEIGHTINGS, truncated_snr
from undiffuse.models.base import Batching
from undiffuse.models.options import NOTHING_SAID, SamplingConfig, SamplingOptions
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.plan import Plan
from undiffuse.systems.base import LossReport, System, TrainingBatch
from undiffuse.systems.rules import check_stages
from undiffuse.systems.sampled import SampledConfig, SampledSystem
from undiffuse.systems.teacher import OutOfSight, Taught, TeacherConfig, begin_as, check_start


class ProgressiveConfig(SampledConfig):
    """Process, parameterization and network are those of the teacher, where there is one.

    Args:
        teacher: a trained model to start from; ``null`` to train one first, for ``base_images``.
        base_images: of the first stage without a teacher; 0 with one.
        start_steps: of the first student; its teacher makes twice as many.
        end_steps: of the last student: ``start_steps`` halved so often.
        stage_images: images that each student sees; the last goes on to the end of the run.
        weighting: of the error of x_0-hat.
        time_density: of the stage without a teacher.
        sampling: its grid is the one distilled on; the number of steps is the present student's unless asked otherwise.
    Raises:
        UsageError: steps that are no power of two apart, a grid whose every second knot is not the grid of half the
            steps, or a parameterization that says too little of x_0 where sampling begins.
    """

    name: Literal["progressive"] = "progressive"
    teacher: TeacherConfig | None = None
    base_images: Annotated[int, Field(ge=0)] = 0
    start_steps: Annotated[int, Field(ge=1, le=1024)] = 16
    end_steps: Annotated[int, Field(ge=1)] = 1
    stage_images: Annotated[int, Field(ge=1)] = 20_000
    weighting: Annotated[ComponentConfig, Component(WEIGHTINGS, "weighting")] = default_of(
        "truncated_snr", truncated_snr
    )
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of("uniform", uniform)
    sampling: SamplingConfig = SamplingConfig(sampler="ddim", num_steps=1, grid="uniform")

    @model_validator(mode="before")
    @classmethod
    def _samples_in_its_last_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sampling" not in values:
            steps = values.get("end_steps", 1)
            return {**values, "sampling": {"sampler": "ddim", "num_steps": steps, "grid": "uniform"}}
        return values

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        check_stages(self)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        process: Process = build(PROCESSES, self.process)
        build(WEIGHTINGS, self.weighting)
        build(TIME_DENSITIES, self.time_density)(process, torch.full((1,), 0.5))
        check_start(self.parameterization, process)
        steps = self.start_steps
        fine, coarse = (time_grid(self.sampling.grid, process, count) for count in (2 * steps, steps))
        if not torch.allclose(fine[::2], coarse, rtol=0, atol=1e-9):
            raise UsageError(
                f"sampling.grid={self.sampling.grid!r} has other knots for half the steps; use "
                "system.sampling.grid=uniform or system.sampling.grid=quadratic"
            )
        return self

    def build(
        self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> ProgressiveSystem:
        return ProgressiveSystem(self, shape, class_names, num_augment_labels)


class ProgressiveSystem(SampledSystem):
    """See ``ProgressiveConfig``."""

    config: ProgressiveConfig
    student_steps: Tensor  # 0 while it is no student yet

    def __init__(
        self,
        config: ProgressiveConfig,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        num_augment_labels: int = 0,
    ) -> None:
        super().__init__(config, shape, class_names, num_augment_labels)
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._teacher = OutOfSight("teacher")
        self.register_buffer("student_steps", torch.tensor(self.steps_at(0)))

    def steps_at(self, images: int) -> int:
        """Steps of the student that learns after so many images; 0 while its first teacher is trained."""
        stage = (images - self.config.base_images) // self.config.stage_images
        if images < self.config.base_images:
            return 0
        return max(self.config.start_steps >> stage, self.config.end_steps)

    @property
    def present_steps(self) -> int:
        """What it samples in unless asked otherwise: the steps of the student it is now, or of the first teacher."""
        return max(int(self.student_steps) or 2 * self.config.start_steps, self.config.sampling.num_steps)

    def plan(self, options: SamplingOptions = NOTHING_SAID, batching: Batching | None = None) -> Plan:
        return super().plan(options.over(SamplingOptions.of(steps=self.present_steps)), batching)

    def sampling_facts(self) -> dict[str, Any]:
        return {**super().sampling_facts(), "steps": self.present_steps}

    @property
    def loss_at_hand(self) -> bool:
        return int(self.student_steps) == 0 or self._teacher.network is not None

    def begin_training(self, device: torch.device) -> None:
        if self.config.teacher is None:
            return
        teacher = Taught(self.config.teacher).on(device, self.open_model)
        begin_as(self, teacher)
        self._teacher.become(self.network)

    def after_step(self, average: System, images: int) -> None:
        """At the end of a stage the averaged student becomes the teacher, and the student goes on from it."""
        steps = self.steps_at(images)
        if steps == int(self.student_steps):
            return
        assert isinstance(average, ProgressiveSystem)
        self._teacher.become(average.network)
        self.network.load_state_dict(average.network.state_dict())
        for system in (self, average):
            system.student_steps.fill_(steps)

    def training_state(self) -> dict[str, Tensor]:
        return self._teacher.tensors()

    def load_training_state(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            self._teacher.become(self.network)
            self._teacher.load(tensors)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0, count = batch.x_0, len(batch.x_0)
        cond = self.conditioner.for_training(batch.given, batch.x_0, rng)
        eps, u = rng.normal(x_0, "eps"), UNIFORM_DRAWS["stratified"](rng.uniform(count, "time"))
        steps = int(self.student_steps)
        if steps == 0:
            t = self._density(self.process, u)
            with rng.layers():
                rows = denoising_loss(self.sharded_denoiser(), x_0, eps, t, self._log_weight, cond)
            return LossReport(rows.mean(), rows, t)
        t, m, s, final = self._step_of(u, steps)
        x_t = self.process.diffuse(x_0, eps, t)
        target = two_step_target(self._teacher_denoiser(), x_t, t, m, s, final, cond)
        with rng.layers():
            output = self.sharded_denoiser().output(x_t, t, cond)
        # the noise that goes with the target at x_t, so that any parameterization knows what it should have said
        noise = eps_of(self.process, x_t, target, t)
        rows = output_error(self._parameterization, output, target, noise, t, self._log_weight)
        return LossReport(rows.mean(), rows, t)

    def _step_of(self, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(t, m, s, final), each (B,): one of the student's steps for each row, and the teacher's knot within."""
        times = time_grid(self.config.sampling.grid, self.process, 2 * steps, self.log_snr_range).to(u.device)
        first = 2 * (u * steps).long().clamp(max=steps - 1)
        return times[first], times[first + 1], times[first + 2], first == 2 * (steps - 1)

    def _teacher_denoiser(self) -> Denoiser:
        if self._teacher.network is None:
            raise UsageError("a progressive student needs its teacher: train it from the start, or resume its run")
        denoiser = self._denoiser_of(sharded(self._teacher.network))
        return self.cut(denoiser)
