"""Progressive distillation: a student learns to match two teacher steps in one step, then becomes the next teacher.

A run consists of stages, which depend only on the number of images seen. The averaged weights at the end of a stage
become the next teacher, and the student continues from them. Without a pretrained teacher, the first stage trains one.

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
from undiffuse.objectives.rules import check_density, check_stages
from undiffuse.objectives.teacher import LazyTeacher, TeacherConfig, check_start, copy_of, init_as
from undiffuse.samplers.grids import time_grid


class ProgressiveConfig(DenoisingConfig, ObjectiveConfig):
    """Configuration of progressive distillation. With a teacher, process, parameterization and network must match it.

    Args:
        teacher: pretrained model to start from; ``null`` to train one first, for ``base_images`` images.
        base_images: number of images for training the first teacher; 0 if ``teacher`` is given.
        start_steps: sampling steps of the first student; its teacher takes twice as many.
        end_steps: sampling steps of the last student: ``start_steps`` divided by a power of two.
        stage_images: images per stage; the last stage continues to the end of the run.
        weighting: weighting of the x_0-hat error.
        time_density: time density of the stage without a teacher.
        sampling: sampling defaults; its grid is used for distillation. By default the number of steps is that of the
            current student.
    Raises:
        UsageError: if the ratio of the steps is not a power of two, every second knot of the grid is not the grid with
            half the steps, or the parameterization is ill-conditioned for x_0 where sampling starts.
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
    def _set_default_sampling(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sampling" not in values:
            steps = values.get("end_steps", 1)
            return {**values, "sampling": {"sampler": "ddim", "num_steps": steps, "grid": "uniform"}}
        return values

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        check_stages(self)
        process = check_components(self)
        check_density(self)
        check_start(self.parameterization, process)
        steps = self.start_steps
        fine, coarse = (time_grid(self.sampling.grid, process, count) for count in (2 * steps, steps))
        if not torch.allclose(fine[::2], coarse, rtol=0, atol=1e-9):
            raise UsageError(
                f"sampling.grid={self.sampling.grid!r} has different knots for half the steps; use "
                "system.sampling.grid=uniform or system.sampling.grid=quadratic"
            )
        return self

    def component(self) -> ProgressiveModelConfig:
        return model_config_from(ProgressiveModelConfig, self)

    def around(self, model: GenerativeModel) -> ProgressiveObjective:
        assert isinstance(model, ProgressiveModel)
        return ProgressiveObjective(model, self)

    def steps_at(self, images: int) -> int:
        """Sampling steps of the student trained after ``images`` images; 0 while the first teacher is trained."""
        stage = (images - self.base_images) // self.stage_images
        if images < self.base_images:
            return 0
        return max(self.start_steps >> stage, self.end_steps)


class ProgressiveObjective(Objective[ProgressiveModel]):
    """Error of one student step against two teacher steps, see ``ProgressiveConfig``.

    Args:
        model: the student.
        config: configuration of the stages; its model options match ``model``.
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
        """Set the training mode; the teacher always stays in evaluation mode."""
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
        """At the end of a stage, make the averaged student the teacher and continue the student from its weights."""
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
        # the noise that corresponds to the target at x_t, so that the target is defined for any parameterization
        noise = eps_of(self.model.process, x_t, target, t)
        losses = output_error(self.model.parameterization, output, target, noise, t, self._log_weight)
        return LossReport(losses.mean(), losses, t)

    def _step_of(self, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(t, m, s, final), each (B,): a student step from t to s for each sample, with the teacher's middle knot m."""
        times = time_grid(self.config.sampling.grid, self.model.process, 2 * steps, self.model.log_snr_range).to(
            u.device
        )
        first = 2 * (u * steps).long().clamp(max=steps - 1)
        return times[first], times[first + 1], times[first + 2], first == 2 * (steps - 1)

    def _teacher_denoiser(self) -> Denoiser:
        if self.teacher is None:
            raise UsageError("a progressive student needs its teacher; train it from the start, or resume its run")
        return self.model.clipped(self.model.denoiser_of(threaded(self.teacher)))
