"""Consistency models: a network whose x_0-hat is the endpoint of x_t's trajectory, for sampling in one or two steps.

Trained by distillation from a teacher's ODE steps (``teacher`` set) or from data only. All schedules are functions of
the number of images seen, which is stored in a buffer: a resumed run gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.losses.consistency import (
    HUBER,
    consistency_target,
    end_of_segment,
    knot_pair,
    knots_at,
    pseudo_huber,
    ratio_below,
)
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.density import log_normal as log_normal_density
from undiffuse.losses.draws import stratified
from undiffuse.models.base import GenerativeModel
from undiffuse.models.denoising import DenoisingConfig, DenoisingModelConfig, NetworkModel
from undiffuse.models.options import SamplingConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components
from undiffuse.objectives.rules import check_density, check_knots
from undiffuse.objectives.teacher import (
    LazyTeacher,
    TeacherConfig,
    check_compatible,
    denoiser_under,
    init_as,
    init_from,
)
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import CountingDenoiser, Steps
from undiffuse.samplers.grids import WIDEST_LOG_SNR, time_grid
from undiffuse.samplers.noise import NoiseSource

#: Upper bound of |c_out|, the factor by which x_0-hat amplifies an error of the network's output.
_LARGEST_GAIN = 10.0


class ConsistencyConfig(DenoisingConfig, ObjectiveConfig):
    """Configuration of consistency training and distillation. See the registries for the available components.

    Args:
        process: an entry of ``PROCESSES`` with its options.
        parameterization: what the network predicts; must give x_0-hat = x_t / alpha at the clean end and stay finite
            at the noisy end, such as ``flow``, ``v`` and ``edm``.
        teacher: model whose ODE is distilled, including its guidance (Meng et al. 2023, arXiv:2210.03142); without one
            the trajectory is estimated from the data (consistency training).
        start: model that initializes the network's weights; the teacher by default.
        solver: solver of the teacher's step from t to s, ``euler`` or ``heun``.
        segments: number of segments of the grid ``sampling.grid``; trajectories are followed to the end of their
            segment only. 1 follows them to the data.
        gap: distance from t to s: ``knots``, one step of a grid that is refined during training; ``ratio``, a fraction
            of sigma / alpha.
        knot_grid: grid of ``knots``, an entry of ``GRIDS``.
        first_knots: number of steps of that grid at the start of training.
        last_knots: number of steps at the end; the validation loss always uses these.
        doubling_images: number of images after which the knots double, or the fraction of ``ratio`` halves.
        weighting: weighting of the distance between two x_0: ``gap``, 1 / (r_t - r_s), r = sigma / alpha
            (Song & Dhariwal 2023); ``output``, equal weight for errors of the network's output at all times;
            ``uniform``, 1.
        huber: constant of the pseudo-Huber distance over sqrt(d).
        time_density: distribution of the training times.
        network: architecture of the network.
        precision: precision of the network's arithmetic, in training and in sampling.
        class_conditional: condition the network on the class of each image; requires data with classes.
        label_dropout: fraction of training samples whose label is dropped, so that an unconditional model is trained
            as well.
        sampling: sampling defaults.
    """

    name: Literal["consistency"] = "consistency"
    teacher: TeacherConfig | None = None
    start: TeacherConfig | None = None
    solver: Literal["euler", "heun"] = "heun"
    segments: Annotated[int, Field(ge=1)] = 1
    gap: Literal["knots", "ratio"] = "knots"
    knot_grid: str = "karras"
    first_knots: Annotated[int, Field(ge=2)] = 10
    last_knots: Annotated[int, Field(ge=2)] = 1280
    doubling_images: Annotated[int, Field(ge=1)] = 50_000
    weighting: Literal["gap", "output", "uniform"] = "gap"
    huber: Annotated[float, Field(gt=0)] = HUBER
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of(
        "log_normal", log_normal_density
    )
    sampling: SamplingConfig = SamplingConfig(sampler="consistency", num_steps=2, grid="angle")

    @model_validator(mode="after")
    def _check_knots(self) -> Self:
        process = check_components(self)
        check_density(self)
        _check_boundary(Parameterization(self.parameterization, process))
        time_grid(self.knot_grid, process, self.first_knots)
        check_knots(self)
        return self

    def component(self) -> DenoisingModelConfig:
        return model_config_from(DenoisingModelConfig, self)

    def around(self, model: GenerativeModel) -> ConsistencyObjective:
        assert isinstance(model, NetworkModel)
        return ConsistencyObjective(model, self)


def _check_boundary(parameterization: Parameterization) -> None:
    """Check that x_0-hat is x_t / alpha at the clean end and that c_out is bounded."""
    process, name = parameterization.process, parameterization.name
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    gain, sigma = parameterization(t).c_out.abs(), process.sigma(t)
    if float(gain[0]) > 2 * float(sigma[0]) + 1e-9:
        raise UsageError(f"parameterization {name!r} does not return x_0 at the clean end; use v, flow or edm")
    if not float(gain.max()) <= _LARGEST_GAIN:
        raise UsageError(
            f"parameterization {name!r} multiplies the network's error by {float(gain.max()):.3g} at high noise "
            "levels, which one step cannot correct; use v, flow or edm (train a teacher with one of them), or method "
            "mean_flow"
        )


class ConsistencyObjective(Objective[NetworkModel]):
    """The consistency loss, see ``ConsistencyConfig``.

    Args:
        model: the model to train.
        config: configuration of the loss; its model options match ``model``.
    """

    seen: Tensor  #: images of completed optimizer steps

    def __init__(self, model: NetworkModel, config: ConsistencyConfig) -> None:
        super().__init__(model)
        self.config = config
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._teacher = LazyTeacher(config.teacher) if config.teacher is not None else None
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def loss_available(self) -> bool:
        return self._teacher is None or self._teacher.available()

    def begin(self, device: torch.device) -> None:
        """Load the teacher, and initialize the model with its weights or those of ``start``."""
        if self._teacher is not None:
            check_compatible(self._teacher.on(device), self.model)
        if self.config.start is not None:
            init_as(self.model, LazyTeacher(self.config.start, "start").on(device))
        elif self._teacher is not None and init_from(self.model, self._teacher.on(device)) == 0:
            raise UsageError(
                f"no weight of the model {self._teacher.config.path} fits this network; use the same system.network"
            )

    def after_step(self, average: NetworkModel, images: int) -> None:
        """Update the number of images seen: all micro-batches of a step use the same knots."""
        self.seen.fill_(images)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0, count = batch.x_0, len(batch.x_0)
        t, s, end = self._times(count, rng)
        cond = self.model.conditioner.for_training(batch.given, batch.x_0, rng)
        eps = rng.normal(x_0, "eps")
        x_t = self.model.process.diffuse(x_0, eps, t)
        x_s = self._x_s(x_0, eps, x_t, t, s, cond)
        denoiser = self.model.threaded_denoiser()
        with torch.no_grad(), rng.layers():  # the same dropout as below
            x_0_s = self._clipped(denoiser(x_s, torch.where(s > end, s, t), cond).x_0)
        target = consistency_target(self.model.process, x_t, t, x_s, s, x_0_s, end)
        with rng.layers():
            difference = denoiser(x_t, t, cond).x_0 - target
        weight = self._weight(t, s).to(difference.dtype)
        losses = weight * pseudo_huber(difference, self.config.huber)
        return LossReport(losses.mean(), losses.detach(), t)

    def _times(self, count: int, rng: StepRandom) -> tuple[Tensor, Tensor, Tensor]:
        """Times t > s >= end, each ``(B,)``."""
        config, process = self.config, self.model.process
        t = self._density(process, stratified(rng.uniform(count, "time")))
        knots = self._knots()
        if config.gap == "knots":
            t, s = knot_pair(self._grid(config.knot_grid, knots), t)
        else:
            s = ratio_below(process, t, round(math.log2(knots)))
        end = end_of_segment(self._grid(config.sampling.grid, config.segments), t)
        return t, torch.maximum(s, end), end

    def _knots(self) -> int:
        """Number of knots of the current discretisation; in validation, that of the last one."""
        config = self.config
        if not self.training:
            return config.last_knots
        return knots_at(int(self.seen), config.first_knots, config.last_knots, config.doubling_images)

    def _grid(self, name: str, num_steps: int) -> Tensor:
        return time_grid(name, self.model.process, num_steps, self.model.log_snr_range)

    def _x_s(self, x_0: Tensor, eps: Tensor, x_t: Tensor, t: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """x_s on the trajectory of x_t: by a step of the teacher's ODE, or from the same image and noise."""
        if self._teacher is None:
            return self.model.process.diffuse(x_0, eps, s)
        denoiser = denoiser_under(self._teacher.on(x_0.device).teacher_denoiser(), self.model.process)
        zeros = torch.zeros(len(t), dtype=torch.int64, device=t.device)
        with torch.no_grad():
            steps = Steps(t, s, zeros, zeros + 1, zeros.bool())
            return make_sampler(self.config.solver).step(
                CountingDenoiser(denoiser, cond), x_t, steps, (), NoiseSource()
            )[0]

    def _clipped(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1) if self.model.clips else x_0

    def _weight(self, t: Tensor, s: Tensor) -> Tensor:
        """Weight of each sample's loss, ``(B,)`` float64."""
        if self.config.weighting == "output":
            return 1 / self.model.parameterization(t).c_out.abs()
        if self.config.weighting == "uniform":
            return torch.ones_like(t)
        r_t, r_s = (torch.exp(-self.model.process.log_snr(time).clamp(min=WIDEST_LOG_SNR[0]) / 2) for time in (t, s))
        return 1 / (r_t - r_s).clamp(min=1e-6)
