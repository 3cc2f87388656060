"""MeanFlow: a network that predicts the average velocity between any two times, for sampling in one or few steps.

Without a teacher it is trained from data only, with a Jacobian-vector product. With one, the teacher's ODE covers the
first part of the interval and the student's mean velocity the rest, and the student is initialized with the teacher's
weights. It also predicts the instantaneous velocity, so that all other samplers work with it.

Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.config import Component, ComponentConfig, build, model_of
from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import NetworkDenoiser
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import mean_over_features, per_row
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity, logit_normal
from undiffuse.losses.mean_flow import adaptive_loss, derivative_target, heun_velocity, split_target
from undiffuse.models.base import GenerativeModel
from undiffuse.models.denoising import DenoisingConfig, DenoisingModelConfig, NetworkModel
from undiffuse.models.options import SamplingConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components
from undiffuse.objectives.rules import check_density, check_velocities
from undiffuse.objectives.teacher import LazyTeacher, TeacherConfig, check_compatible, denoiser_under, init_from

#: Density of both times in the paper (table 1d).
_TIMES = model_of("logit_normal", logit_normal).model_validate({"name": "logit_normal", "mean": -0.4, "std": 1.0})


class MeanFlowConfig(DenoisingConfig, ObjectiveConfig):
    """Configuration of mean flows. ``process`` and ``parameterization`` must be ``flow``.

    Args:
        teacher: pretrained model of any kind whose ODE is distilled, including its guidance; ``null`` to train from
            data only, with the paper's Jacobian-vector product in fp32. The network's time embedding must then have low
            frequencies, about one period over [0, 1] (``fourier_scale=0.001``): with the usual frequencies of diffusion
            models, du/dt is dominated by noise.
        teacher_step: maximum length of the teacher's part of the interval, one step of Heun's method.
        time_density: density of both times; t is the larger one.
        equal_share: fraction of samples whose two times are equal, which train the instantaneous velocity.
        loss_power: exponent of the adaptive loss; 0 is the squared error.
        loss_floor: constant added to a sample's squared error before the power is taken.
    """

    name: Literal["mean_flow"] = "mean_flow"
    teacher: TeacherConfig | None = None
    teacher_step: Annotated[float, Field(gt=0, le=1)] = 0.125
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = _TIMES
    equal_share: Annotated[float, Field(ge=0, lt=1)] = 0.75
    loss_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    loss_floor: Annotated[float, Field(gt=0)] = 1e-3
    sampling: SamplingConfig = SamplingConfig(sampler="mean_velocity", num_steps=1, grid="uniform", clip_x_0=False)

    @property
    def needs_target_time(self) -> bool:
        return True

    @model_validator(mode="after")
    def _check_velocities(self) -> Self:
        check_velocities(self)
        check_components(self)
        check_density(self)
        return self

    def component(self) -> DenoisingModelConfig:
        return model_config_from(DenoisingModelConfig, self, target_time=True)

    def around(self, model: GenerativeModel) -> MeanFlowObjective:
        assert isinstance(model, NetworkModel)
        return MeanFlowObjective(model, self)


class MeanFlowObjective(Objective[NetworkModel]):
    """Error of the mean velocity, see ``MeanFlowConfig``.

    Args:
        model: the model to train.
        config: configuration of the loss; its model options match ``model``.
    """

    def __init__(self, model: NetworkModel, config: MeanFlowConfig) -> None:
        super().__init__(model)
        self.config = config
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._teacher = LazyTeacher(config.teacher) if config.teacher is not None else None

    @property
    def loss_available(self) -> bool:
        return self._teacher is None or self._teacher.available()

    def begin(self, device: torch.device) -> None:
        if self._teacher is None:
            return
        teacher = self._teacher.on(device)
        check_compatible(teacher, self.model)
        denoiser = denoiser_under(teacher.denoiser(), self.model.process)
        if isinstance(denoiser, NetworkDenoiser) and denoiser.parameterization.name == "flow":
            init_from(self.model.network, denoiser.network)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0 = batch.x_0
        t, s = self._times(len(x_0), rng)
        cond = self.model.conditioner.for_training(batch.given, batch.x_0, rng)
        eps = rng.normal(x_0, "eps")
        x_t = self.model.process.diffuse(x_0, eps, t)
        velocity = self._velocity(x_t, t, cond) if self._teacher is not None else eps - x_0
        target = self._target(x_t, t, s, velocity, cond, rng)
        with rng.layers():
            error = self.model.threaded_denoiser().output(x_t, t, cond, Evaluation(target_time=s)) - target
        if not self.training:  # the adaptive loss is normalized and does not measure the size of the error
            squared_error = mean_over_features(error**2)
            return LossReport(squared_error.mean(), squared_error, t)
        losses = adaptive_loss(error, self.config.loss_power, self.config.loss_floor)
        return LossReport(losses.mean(), losses, t)

    def _times(self, count: int, rng: StepRandom) -> tuple[Tensor, Tensor]:
        """(t, s), each (B,), s <= t."""
        first, second = (self._density(self.model.process, rng.uniform(count, name)) for name in ("time", "until"))
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        return t, torch.where(rng.uniform(count, "equal") < self.config.equal_share, t, s)

    @torch.no_grad()
    def _velocity(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The teacher's velocity, (x_t - x_0-hat) / t."""
        assert self._teacher is not None
        teacher = self._teacher.on(x_t.device).teacher_denoiser()
        x_0 = denoiser_under(teacher, self.model.process)(x_t, t, cond).x_0
        velocity: Tensor = (x_t - x_0) / per_row(t, x_t)
        return velocity

    def _target(self, x_t: Tensor, t: Tensor, s: Tensor, velocity: Tensor, cond: Condition, rng: StepRandom) -> Tensor:
        """Regression target: the velocity if s = t, the mean velocity if s < t."""
        rows = (s < t).nonzero().flatten()
        if len(rows) == 0:
            return velocity
        x, later, earlier, selected = x_t[rows], t[rows], s[rows], cond.select(rows)
        # half-precision rounding errors would exceed the derivative
        denoiser = self.model.denoiser("fp32" if self._teacher is None else None)

        def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return denoiser.output(x, t, selected, Evaluation(target_time=s))

        with _without_dropout(self.model.network):
            if self._teacher is None:
                target = derivative_target(u, x, later, earlier, velocity[rows])
            else:
                middle = torch.maximum(earlier, later - self.config.teacher_step * rng.uniform(len(t), "middle")[rows])
                first = heun_velocity(lambda x, m: self._velocity(x, m, selected), x, later, middle, velocity[rows])
                target = split_target(u, x, later, middle, earlier, first)
        return velocity.index_copy(0, rows, target)


@contextmanager
def _without_dropout(network: torch.nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
