"""Generative adversarial networks: a generator and a discriminator, trained in two phases.

Each training step updates the discriminator on new data and new samples; every ``discriminator_steps`` steps the
generator is updated as well. The discriminator sees each image once per epoch, so a GAN's images, seconds and quality
are comparable with those of a diffusion model.

Source: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.augment.adaptive import AdaptiveConfig
from undiffuse.augment.config import AUGMENTATIONS, AugmentConfig, NoAugmentConfig
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.losses.adversarial import OBJECTIVES, AdversarialObjective, non_saturating
from undiffuse.losses.penalties import gradient_penalty, interpolates, zero_centred_penalty
from undiffuse.losses.unrolled import Parameters, unrolled
from undiffuse.models.base import GenerativeModel
from undiffuse.models.gan import GanModel, GanModelConfig, GanPartsConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, Phase, TrainingBatch, model_config_from
from undiffuse.objectives.gan_augment import DiscriminatorAugment
from undiffuse.objectives.rules import check_adversarial

DISCRIMINATOR, GENERATOR = "discriminator", "generator"


class GanConfig(GanPartsConfig, ObjectiveConfig):
    """Configuration of GAN training. Options of the model are in ``GanPartsConfig``.

    Args:
        objective: loss of both networks, with the discriminator's penalties.
        discriminator_steps: discriminator updates per generator update.
        unrolled_steps: discriminator updates that the generator's loss is unrolled over (Metz et al. 2016); 0 for a
            standard GAN. They minimise the objective's loss only, without its penalties and its weight clipping.
        unrolled_rate: learning rate of the unrolled updates.
        unrolled_rule: optimizer of the unrolled updates, ``adam`` with newly initialized moments or plain ``sgd``.
        diff_augment: DiffAugment policies applied to data and samples before the discriminator, such as
            ``["colour", "translation", "cutout"]``.
        augment: transformations applied to both, an entry of ``AUGMENTATIONS``; the networks
            are not conditioned on them, so ``condition`` has no effect.
        adaptive: adapt the probabilities of ``augment`` to the discriminator's overfitting (ADA); ``null`` to disable.
            Requires an objective whose outputs indicate "real" by their sign, such as ``non_saturating`` or ``hinge``.
        precision: precision of the networks' arithmetic; penalties and the steps that include them use fp32.
    """

    name: Literal["gan"] = "gan"
    objective: Annotated[ComponentConfig, Component(OBJECTIVES, "adversarial objective")] = default_of(
        "non_saturating", non_saturating
    )
    discriminator_steps: Annotated[int, Field(ge=1)] = 1
    unrolled_steps: Annotated[int, Field(ge=0)] = 0
    unrolled_rate: Annotated[float, Field(gt=0)] = 1e-4
    unrolled_rule: Literal["adam", "sgd"] = "adam"
    diff_augment: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    augment: Annotated[AugmentConfig, Component(AUGMENTATIONS, "augmentation")] = NoAugmentConfig(condition=False)
    adaptive: AdaptiveConfig | None = None

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        build(OBJECTIVES, self.objective)
        check_adversarial(self)
        return self

    def component(self) -> GanModelConfig:
        return model_config_from(GanModelConfig, self)

    def around(self, model: GenerativeModel) -> GanObjective:
        assert isinstance(model, GanModel)
        return GanObjective(model, self)


class GanObjective(Objective[GanModel]):
    """The losses of generator and discriminator, see ``GanConfig``.

    Args:
        model: the model to train.
        config: configuration of the losses; its network options match ``model``.
    """

    train_validation_metrics = ("d_real",)

    def __init__(self, model: GanModel, config: GanConfig) -> None:
        super().__init__(model)
        self.config = config
        self.augment = DiscriminatorAugment(config.augment, config.adaptive, config.diff_augment, model.shape)
        self._adversarial: AdversarialObjective = build(OBJECTIVES, config.objective)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase(DISCRIMINATOR, (self.model.discriminator,)),
            Phase(GENERATOR, (self.model.generator,), every=self.config.discriminator_steps),
        )

    @torch.no_grad()
    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        """Clip the discriminator's weights if the objective requires it, and update the adaptive augmentation."""
        if phase != DISCRIMINATOR:
            return
        if (clip := self._adversarial.clip) is not None:
            for parameter in self.model.discriminator.parameters():
                parameter.clamp_(-clip, clip)
        for record in records:
            self.augment.record(record["real"])
        self.augment.update_p()

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0 = batch.x_0
        cond = self.model.conditioner.for_training(batch.given, x_0, rng)
        z = rng.normal(x_0.new_empty(len(x_0), self.config.latent_size), f"latent {phase}")
        with rng.layers():
            loss = self._generator_loss if phase == GENERATOR else self._discriminator_loss
            return loss(x_0, z, cond, rng)

    def _discriminator_loss(self, x_0: Tensor, z: Tensor, cond: Condition, rng: StepRandom) -> LossReport:
        penalties = self._adversarial.penalties
        with_penalties = self.training and penalties.due(rng.step)
        with torch.no_grad():
            generated = self._augmented(self.model.generate(z, cond), rng, "samples").detach()
            x_0 = self._augmented(x_0, rng, "data").detach()
        x_0.requires_grad_(with_penalties and penalties.r1 > 0)
        generated.requires_grad_(with_penalties and penalties.r2 > 0)
        precision = "fp32" if with_penalties else self.config.precision
        real, fake = (self.model.discriminate(x, cond, precision=precision) for x in (x_0, generated))
        losses = self._adversarial.discriminator(real, fake)
        metrics = {"discriminator_loss": losses.mean(), "d_real": real.mean(), "d_fake": fake.mean()}
        if self.training:
            if self._adversarial.signed:
                metrics["r_t"] = real.sign().mean()
            if self.augment.p is not None:
                metrics["p"] = self.augment.p.clone()
        if with_penalties:
            penalty_terms = self._penalty_terms(x_0, generated, real, fake, cond, rng)
            losses = losses + penalties.every * torch.stack(list(penalty_terms.values())).sum(0)
            metrics |= {name: value.mean() for name, value in penalty_terms.items()}
        return _report(losses, metrics, {"real": real.detach()} if self.training else {})

    def _penalty_terms(
        self, x_0: Tensor, generated: Tensor, real: Tensor, fake: Tensor, cond: Condition, rng: StepRandom
    ) -> dict[str, Tensor]:
        """The penalties (B,) by name; those at data and at samples reuse the loss's discriminator outputs."""
        penalties, penalty_terms = self._adversarial.penalties, {}
        if penalties.r1 > 0:
            penalty_terms["r1"] = zero_centred_penalty(real, x_0, penalties.r1)
        if penalties.r2 > 0:
            penalty_terms["r2"] = zero_centred_penalty(fake, generated, penalties.r2)
        if penalties.lipschitz > 0:
            middle = interpolates(x_0, generated, rng.uniform(len(x_0), "between"))
            outputs = self.model.discriminate(middle, cond, precision="fp32")
            penalty_terms["gradient_penalty"] = gradient_penalty(outputs, middle, penalties.lipschitz, penalties.sided)
        return penalty_terms

    def _generator_loss(self, x_0: Tensor, z: Tensor, cond: Condition, rng: StepRandom) -> LossReport:
        fake = self._augmented(self.model.generate(z, cond), rng, "generator")
        needs_data = self._adversarial.paired or self.config.unrolled_steps > 0
        x_0 = self._augmented(x_0, rng, "data").detach() if needs_data else x_0[:0]  # real data needs no gradient

        def outputs(theta: Parameters) -> tuple[Tensor, Tensor]:
            return self.model.discriminate(x_0, cond, theta), self.model.discriminate(fake, cond, theta)

        theta = unrolled(
            lambda theta: self._adversarial.discriminator(*outputs(theta)).mean(),
            dict(self.model.discriminator.named_parameters()),
            self.config.unrolled_steps,
            self.config.unrolled_rate,
            self.config.unrolled_rule,
        )
        generated = self.model.discriminate(fake, cond, theta)
        real = self.model.discriminate(x_0, cond, theta) if self._adversarial.paired else torch.zeros_like(generated)
        losses = self._adversarial.generator(real, generated)
        return _report(losses, {"generator_loss": losses.mean()})

    def _augmented(self, x: Tensor, rng: StepRandom, what: str) -> Tensor:
        """``x`` augmented for the discriminator in training; unchanged in evaluation."""
        out: Tensor = self.augment(x, rng, what) if self.training else x
        return out


def _report(
    losses: Tensor, metrics: dict[str, Tensor], records: Mapping[str, Tensor] = MappingProxyType({})
) -> LossReport:
    metrics = {name: value.detach() for name, value in metrics.items()}
    return LossReport(losses.mean(), losses.detach(), None, metrics, records)
