"""Training objective of diffusion models: a weighted denoising loss, a variational bound, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.density import uniform as uniform_density
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.losses.hybrid import BOUND_WEIGHT, hybrid_loss, variational_loss
from undiffuse.losses.importance import ImportanceDraws
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.losses.weighting import flow as flow_weighting
from undiffuse.models.base import GenerativeModel
from undiffuse.models.denoising import DenoisingConfig, DenoisingModelConfig, NetworkModel
from undiffuse.models.options import SamplingConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components
from undiffuse.objectives.rules import check_density, check_objective

#: Sampling defaults of models with a learned variance; Nichol & Dhariwal (2021) find 50 to 100 steps sufficient.
LEARNED_VARIANCE_SAMPLING = SamplingConfig(sampler="ancestral:variance=learned", num_steps=100, grid="uniform")


class DiffusionConfig(DenoisingConfig, ObjectiveConfig):
    """Configuration of a diffusion objective. See the registries for the available components.

    Args:
        process: an entry of ``PROCESSES`` with its options.
        parameterization: what the network predicts.
        weighting: weighting of the denoising loss over noise levels.
        objective: ``denoising``, the weighted error of x_0-hat; ``variational``, the variational bound; ``hybrid``, the
            denoising loss plus the bound, whose gradient only reaches the learned variance (Nichol & Dhariwal 2021).
        learned_variance: the network also predicts the variance of the reverse step, for
            ``ancestral:variance=learned``, the default sampler of such a model. Trained by ``hybrid`` and
            ``variational``.
        bound_weight: weight of the bound (in bits per dimension) in ``hybrid``.
        time_density: distribution of the training times.
        time_draws: uniform numbers of a micro-batch: ``independent``; ``stratified``, one in each of B equal
            strata; ``low_discrepancy``, B equidistant ones with one common shift (Kingma et al. 2021). Or
            ``importance``: knots in proportion to the size of their last losses, reweighted to the same mean.
        network: architecture of the network.
        precision: precision of the network's arithmetic, in training and in sampling.
        class_conditional: condition the network on the class of each image; requires data with classes.
        label_dropout: fraction of training samples whose label is dropped, so that an unconditional model is trained
            as well.
        guide_images: number of images after which the averaged network is stored as a guide for
            ``sampling.autoguidance``, at most a tenth of the run. ``null`` stores none; samples are unguided until
            then.
        sampling: sampling defaults.
    """

    name: Literal["diffusion"] = "diffusion"
    weighting: Annotated[ComponentConfig, Component(WEIGHTINGS, "weighting")] = default_of("flow", flow_weighting)
    objective: Literal["denoising", "hybrid", "variational"] = "denoising"
    learned_variance: bool = False
    bound_weight: Annotated[float, Field(gt=0)] = BOUND_WEIGHT
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of(
        "uniform", uniform_density
    )
    time_draws: Literal["independent", "stratified", "low_discrepancy", "importance"] = "independent"
    guide_images: Annotated[int, Field(ge=1)] | None = None

    @property
    def predicts_variance(self) -> bool:
        return self.learned_variance

    @model_validator(mode="before")
    @classmethod
    def _set_learned_variance_sampling(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("learned_variance") is True and "sampling" not in values:
            return {**values, "sampling": LEARNED_VARIANCE_SAMPLING}
        return values

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        check_objective(self)
        check_components(self)
        check_density(self)
        return self

    def component(self) -> DenoisingModelConfig:
        other = {"guide": self.guide_images is not None, "trained_density": self.time_density}
        return model_config_from(DenoisingModelConfig, self, **other)

    def around(self, model: GenerativeModel) -> DiffusionObjective:
        assert isinstance(model, NetworkModel)
        return DiffusionObjective(model, self)


class DiffusionObjective(Objective[NetworkModel]):
    """The weighted denoising loss, the variational bound, or both, see ``DiffusionConfig``.

    Args:
        model: the model to train.
        config: configuration of the loss; its model options match ``model``.
    """

    def __init__(self, model: NetworkModel, config: DiffusionConfig) -> None:
        super().__init__(model)
        self.config = config
        knots = model.process.num_steps if config.time_draws == "importance" else None
        self.importance = ImportanceDraws(knots) if knots is not None else None
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)

    def after_step(self, average: NetworkModel, images: int) -> None:
        """Store the averaged network as the guide once ``guide_images`` images have been seen."""
        if images < (self.config.guide_images or math.inf) or self.model.guide_stored:
            return
        for model in (self.model, average):
            model.store_guide(average.network, images)

    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        for record in records:
            if self.importance is not None and record:
                self.importance.record(record["t"], record["losses"])

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0 = batch.x_0
        t, weight = self._times(len(x_0), rng)
        cond = self.model.conditioner.for_training(batch.given, batch.x_0, rng)
        eps = rng.normal(x_0, "eps")
        with rng.layers():
            losses = self._objective(x_0, eps, t, cond)
        per_sample = losses.detach()
        if batch.row_weights is not None:
            losses = losses * batch.row_weights.to(losses.dtype)
        if weight is None:
            return LossReport(losses.mean(), per_sample, t)
        records = {"t": t, "losses": per_sample}
        weight = weight.to(losses.dtype)
        return LossReport((losses * weight).mean(), per_sample * weight, t, records=records)

    def _objective(self, x_0: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Losses per sample, (B,)."""
        denoiser, levels = self.model.threaded_denoiser(), self.model.space.levels
        if self.config.objective == "variational":
            return variational_loss(denoiser, x_0, eps, t, cond, levels)
        if self.config.objective == "hybrid":
            return hybrid_loss(denoiser, x_0, eps, t, self._log_weight, cond, levels, self.config.bound_weight)
        return denoising_loss(denoiser, x_0, eps, t, self._log_weight, cond)

    def _times(self, count: int, rng: StepRandom) -> tuple[Tensor, Tensor | None]:
        """Times ``(B,)`` and, for importance sampling, their weights.

        Importance sampling is used in training only: a validation loss must not depend on or change the loss history.
        """
        u = rng.uniform(count, "time")
        if self.importance is None:
            return self._density(self.model.process, UNIFORM_DRAWS[self.config.time_draws](u)), None
        return self.importance.draw(u) if self.training else (self._density(self.model.process, u), None)
