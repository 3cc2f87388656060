"""Progressive distillation: a student learns to do in one step what its teacher does in two, then takes its place.

A run goes through stages, a function of the images seen and nothing else. The averaged weights at a stage's end are
the next stage's teacher, and the student goes on from them. Without a trained model to start from, the first stage
trains one.

Source: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from undiffuse.compute.threaded_batch import threaded
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.losses.denoising import denoising_loss, output_error
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity, uniform
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.losses.progressive_distillation import two_step_target
from undiffuse.losses.weighting import WEIGHTINGS, truncated_snr
from undiffuse.models.base import GenerativeModel
from undiffuse.models.denoising import DenoisingConfig
from undiffuse.models.options import SamplingConfig
from undiffuse.models.progressive import ProgressiveModel, ProgressiveModelConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components
from undiffuse.objectives.rules import check_stages
from undiffuse.objectives.teacher import LazyTeacher, TeacherConfig, check_start, copy_of, init_as
from undiffuse.samplers.grids import time_grid


class ProgressiveConfig(DenoisingConfig, ObjectiveConfig):
    """Process, parameterization and network are those of the teacher, where there is one.

    Args:
        teacher: a trained model to start from; ``null`` to train one first, for ``base_images``.
        base_images: of the first stage without a teacher; 0 with one.
        start_steps: of the first student; its teacher makes twice as many.
        end_steps: of the last student: ``start_steps`` halved so often.
        stage_images: images that each student sees; the last goes on to the end of the run.
        weighting: of the error of x_0-hat.
        time_density: of the stage without a teacher.
        sampling: its grid is the one distilled on; the number of steps is by default the present student's.
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
    def _check_stages(self) -> Self:
        check_stages(self)
        process = check_components(self)
        check_start(self.parameterization, process)
        steps = self.start_steps
        fine, coarse = (time_grid(self.sampling.grid, process, count) for count in (2 * steps, steps))
        if not torch.allclose(fine[::2], coarse, rtol=0, atol=1e-9):
            raise UsageError(
                f"sampling.grid={self.sampling.grid!r} has other knots for half the steps; use "
                "system.sampling.grid=uniform or system.sampling.grid=quadratic"
            )
        return self

    def component(self) -> ProgressiveModelConfig:
        return model_config_from(ProgressiveModelConfig, self)

    def around(self, model: GenerativeModel) -> ProgressiveObjective:
        assert isinstance(model, ProgressiveModel)
        return ProgressiveObjective(model, self)

    def steps_at(self, images: int) -> int:
        """Steps of the student that learns after so many images; 0 while its first teacher is trained."""
        stage = (images - self.base_images) // self.stage_images
        if images < self.base_images:
            return 0
        return max(self.start_steps >> stage, self.end_steps)


class ProgressiveObjective(Objective[ProgressiveModel]):
    """The error of one step of the student against two of its teacher, see ``ProgressiveConfig``.

    Args:
        model: that learns.
        config: of the stages; its options of the model are those of ``model``.
    """

    def __init__(self, model: ProgressiveModel, config: ProgressiveConfig) -> None:
        super().__init__(model)
        self.config = config
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self.teacher: nn.Module | None = None

    @property
    def loss_available(self) -> bool:
        return int(self.model.student_steps) == 0 or self.teacher is not None

    def train(self, mode: bool = True) -> Self:
        """The teacher never is in training mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def begin(self, device: torch.device) -> None:
        self.model.student_steps.fill_(self.config.steps_at(0))
        if self.config.teacher is not None:
            init_as(self.model, LazyTeacher(self.config.teacher).on(device))
            self.teacher = copy_of(self.model.network)

    def after_step(self, average: ProgressiveModel, images: int) -> None:
        """At the end of a stage the averaged student becomes the teacher, and the student goes on from it."""
        steps = self.config.steps_at(images)
        if steps == int(self.model.student_steps):
            return
        self.teacher = copy_of(average.network)
        self.model.network.load_state_dict(average.network.state_dict())
        for model in (self.model, average):
            model.student_steps.fill_(steps)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors and self.teacher is None:
            self.teacher = copy_of(self.model.network)
        super().load_state(tensors)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0, count = batch.x_0, len(batch.x_0)
        cond = self.model.conditioner.for_training(batch.given, batch.x_0, rng)
        eps, u = rng.normal(x_0, "eps"), UNIFORM_DRAWS["stratified"](rng.uniform(count, "time"))
        steps = int(self.model.student_steps)
        if steps == 0:
            t = self._density(self.model.process, u)
            with rng.layers():
                losses = denoising_loss(self.model.threaded_denoiser(), x_0, eps, t, self._log_weight, cond)
            return LossReport(losses.mean(), losses, t)
        t, m, s, final = self._step_of(u, steps)
        x_t = self.model.process.diffuse(x_0, eps, t)
        target = two_step_target(self._teacher_denoiser(), x_t, t, m, s, final, cond)
        with rng.layers():
            output = self.model.threaded_denoiser().output(x_t, t, cond)
        # the noise that goes with the target at x_t, so that any parameterization knows what it should have said
        noise = eps_of(self.model.process, x_t, target, t)
        losses = output_error(self.model.parameterization, output, target, noise, t, self._log_weight)
        return LossReport(losses.mean(), losses, t)

    def _step_of(self, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(t, m, s, final), each (B,): one of the student's steps for each row, and the teacher's knot within."""
        times = time_grid(self.config.sampling.grid, self.model.process, 2 * steps, self.model.log_snr_range).to(
            u.device
        )
        first = 2 * (u * steps).long().clamp(max=steps - 1)
        return times[first], times[first + 1], times[first + 2], first == 2 * (steps - 1)

    def _teacher_denoiser(self) -> Denoiser:
        if self.teacher is None:
            raise UsageError("a progressive student needs its teacher: train it from the start, or resume its run")
        return self.model.clipped(self.model.denoiser_of(threaded(self.teacher)))
