"""Generative adversarial networks: a generator and the discriminator that it learns from, in two phases.

A step of the trainer shows the discriminator fresh data and fresh samples and moves it; every ``discriminator_steps``
steps the generator moves as well. So each image seen is one that the discriminator saw for the first time in its epoch,
and a GAN's images, seconds and quality stand beside those of a diffusion model.

Source: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from undiffuse.compute.choice import arithmetic
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.data.augment.adaptive import AdaptiveConfig
from undiffuse.data.augment.config import AUGMENTATIONS, AugmentConfig, NoAugmentConfig
from undiffuse.errors import RunError, UsageError
from undiffuse.losses.adversarial import OBJECTIVES, Objective, non_saturating
from undiffuse.losses.penalties import between, lipschitz, zero_centred
from undiffuse.losses.unrolled import Parameters, unrolled
from undiffuse.models.base import Batching
from undiffuse.models.blocks import block_rows
from undiffuse.models.options import NOTHING_SAID, SamplingOptions, option_rows
from undiffuse.models.stages import GeneratorStage
from undiffuse.networks.gan import DISCRIMINATOR_CONFIGS, GENERATOR_CONFIGS, build_discriminator, build_generator
from undiffuse.networks.gan.config import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.plan import Plan
from undiffuse.systems.base import AdversarialSystem, LossReport, SystemConfig, TrainingBatch
from undiffuse.systems.gan_augment import DiscriminatorAugment

DISCRIMINATOR, GENERATOR = "discriminator", "generator"


class GanConfig(SystemConfig):
    """See the registries for the rows of each component.

    Args:
        objective: what the two play for, with the discriminator's penalties.
        generator, discriminator: their networks.
        latent_size: numbers, drawn from N(0, I), that an example is made from.
        discriminator_steps: of each step of the generator.
        unrolled_steps: of the discriminator that the generator looks ahead (Metz et al. 2016); 0 for the plain game.
            They follow the objective's loss alone, without its penalties and its clipping.
        unrolled_rate: learning rate of those.
        unrolled_rule: their optimizer, ``adam`` from fresh averages or plain ``sgd``.
        diff_augment: steps of DiffAugment that data and samples go through before the discriminator, such as
            ``["colour", "translation", "cutout"]``.
        augment: transformations that both go through, a row of ``AUGMENTATIONS``; there is nothing to tell the
            networks of them, so ``condition`` has no effect.
        adaptive: steer the probabilities of ``augment`` by the discriminator's overfitting (ADA); ``null`` for not.
            It needs an objective whose outputs say "real" by their sign, such as ``non_saturating`` or ``hinge``.
        precision: of the networks' arithmetic; penalties and the steps that pay them are in fp32.
        class_conditional: tell both networks the class of each picture; data without classes is refused.
        label_dropout: share of the rows without their label, so that samples of no class in particular can be had.
    """

    name: Literal["gan"] = "gan"
    objective: Annotated[ComponentConfig, Component(OBJECTIVES, "adversarial objective")] = default_of(
        "non_saturating", non_saturating
    )
    generator: Annotated[ComponentConfig, Component(GENERATOR_CONFIGS, "generator")] = DCGANGeneratorConfig()
    discriminator: Annotated[ComponentConfig, Component(DISCRIMINATOR_CONFIGS, "discriminator")] = (
        DCGANDiscriminatorConfig()
    )
    latent_size: Annotated[int, Field(ge=1)] = 100
    discriminator_steps: Annotated[int, Field(ge=1)] = 1
    unrolled_steps: Annotated[int, Field(ge=0)] = 0
    unrolled_rate: Annotated[float, Field(gt=0)] = 1e-4
    unrolled_rule: Literal["adam", "sgd"] = "adam"
    diff_augment: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    augment: Annotated[AugmentConfig, Component(AUGMENTATIONS, "augmentation")] = NoAugmentConfig(condition=False)
    adaptive: AdaptiveConfig | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    class_conditional: bool = False
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        objective: Objective = build(OBJECTIVES, self.objective)
        if self.adaptive is not None and not objective.signed:
            raise UsageError(
                f"system.adaptive counts outputs that say 'real' by their sign, and those of objective="
                f"{self.objective.name} have no zero; say system.adaptive=null, or "
                "system.objective=non_saturating or system.objective=hinge"
            )
        if objective.penalties.any and getattr(self.discriminator, "norm", "none") == "batch":
            raise UsageError(
                f"objective={self.objective.name} penalises the slope at each picture by itself, which batch norm "
                "ties to the others; say system.discriminator.norm=layer, none or spectral, or set its penalties to 0"
            )
        return self

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> GanSystem:
        return GanSystem(self, shape, class_names, num_augment_labels)


class GanSystem(AdversarialSystem):
    """See ``GanConfig``."""

    phases = (DISCRIMINATOR, GENERATOR)
    compared = ("d_real",)

    def __init__(
        self, config: GanConfig, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> None:
        super().__init__()
        if num_augment_labels:
            raise UsageError(
                "augment.condition=true tells a network what was done to each picture, and a GAN's takes no such "
                "labels; say augment.condition=false, or system.augment to transform data and samples alike"
            )
        if config.class_conditional and not class_names:
            raise UsageError(
                "system.class_conditional=true, but the data has no classes; give data with classes or say "
                "system.class_conditional=false"
            )
        self.config, self.space = config, Space.of_data(shape)
        self.class_names = tuple(class_names) if config.class_conditional else ()
        spec = ConditionSpec(class_names=self.class_names)
        self.conditioner = LabelConditioner(spec, config.label_dropout)
        count = len(self.class_names)
        self.generator = build_generator(config.generator, self.shape, config.latent_size, count)
        self.discriminator = build_discriminator(config.discriminator, self.shape, count)
        self.augment = DiscriminatorAugment(config.augment, config.adaptive, config.diff_augment, self.shape)
        self._objective: Objective = build(OBJECTIVES, config.objective)

    def turns(self, step: int) -> tuple[str, ...]:
        last = (step + 1) % self.config.discriminator_steps == 0
        return self.phases if last else self.phases[:1]

    def parameters_of(self, phase: str) -> list[nn.Parameter]:
        network = {DISCRIMINATOR: self.discriminator, GENERATOR: self.generator}[phase]
        return list(network.parameters())

    @torch.no_grad()
    def after_turn(self, phase: str) -> None:
        """Cut the discriminator's weights where the objective says so, and steer the augmentation."""
        if phase != DISCRIMINATOR:
            return
        if (clip := self._objective.clip) is not None:
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-clip, clip)
        self.augment.settle()

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0 = batch.x_0
        cond = self.conditioner.for_training(batch.given, x_0, rng)
        z = rng.normal(x_0.new_empty(len(x_0), self.config.latent_size), f"latent {phase}")
        with rng.layers():
            turn = self._generator_turn if phase == GENERATOR else self._discriminator_turn
            return turn(x_0, z, cond, rng)

    def _discriminator_turn(self, x_0: Tensor, z: Tensor, cond: Condition, rng: StepRandom) -> LossReport:
        penalties = self._objective.penalties
        pays = self.training and penalties.due(rng.step)
        with torch.no_grad():
            made = self._seen(self._make(z, cond), rng, "samples").detach()
            x_0 = self._seen(x_0, rng, "data").detach()
        x_0.requires_grad_(pays and penalties.r1 > 0)
        made.requires_grad_(pays and penalties.r2 > 0)
        precision = "fp32" if pays else self.config.precision
        real, fake = (self._judge(x, cond, precision=precision) for x in (x_0, made))
        rows = self._objective.discriminator(real, fake)
        facts = {"discriminator_loss": rows.mean(), "d_real": real.mean(), "d_fake": fake.mean()}
        if self.training:
            if self._objective.signed:
                facts["r_t"] = real.sign().mean()
            self.augment.record(real.detach())
            if self.augment.p is not None:
                facts["p"] = self.augment.p.clone()
        if pays:
            owed = self._owed(x_0, made, real, fake, cond, rng)
            rows = rows + penalties.every * torch.stack(list(owed.values())).sum(0)
            facts |= {name: value.mean() for name, value in owed.items()}
        return _report(rows, facts)

    def _owed(
        self, x_0: Tensor, made: Tensor, real: Tensor, fake: Tensor, cond: Condition, rng: StepRandom
    ) -> dict[str, Tensor]:
        """The penalties (B,) by name; those at data and at samples use the outputs there that the loss has taken."""
        penalties, owed = self._objective.penalties, {}
        if penalties.r1 > 0:
            owed["r1"] = zero_centred(real, x_0, penalties.r1)
        if penalties.r2 > 0:
            owed["r2"] = zero_centred(fake, made, penalties.r2)
        if penalties.lipschitz > 0:
            middle = between(x_0, made, rng.uniform(len(x_0), "between"))
            outputs = self._judge(middle, cond, precision="fp32")
            owed["gradient_penalty"] = lipschitz(outputs, middle, penalties.lipschitz, penalties.sided)
        return owed

    def _generator_turn(self, x_0: Tensor, z: Tensor, cond: Condition, rng: StepRandom) -> LossReport:
        fake = self._seen(self._make(z, cond), rng, "generator")
        looks = self._objective.paired or self.config.unrolled_steps > 0
        x_0 = self._seen(x_0, rng, "data").detach() if looks else x_0[:0]  # made by nobody, so without a gradient

        def outputs(theta: Parameters) -> tuple[Tensor, Tensor]:
            return self._judge(x_0, cond, theta), self._judge(fake, cond, theta)

        theta = unrolled(
            lambda theta: self._objective.discriminator(*outputs(theta)).mean(),
            dict(self.discriminator.named_parameters()),
            self.config.unrolled_steps,
            self.config.unrolled_rate,
            self.config.unrolled_rule,
        )
        made = self._judge(fake, cond, theta)
        real = self._judge(x_0, cond, theta) if self._objective.paired else torch.zeros_like(made)
        rows = self._objective.generator(real, made)
        return _report(rows, {"generator_loss": rows.mean()})

    def _seen(self, x: Tensor, rng: StepRandom, what: str) -> Tensor:
        """As the discriminator sees it; held-out data is shown as it is."""
        out: Tensor = self.augment(x, rng, what) if self.training else x
        return out

    def _make(self, z: Tensor, cond: Condition) -> Tensor:
        with self._precision(self.config.precision):
            made: Tensor = self.generator(z, cond)
        return made.to(z.dtype)

    def _judge(
        self, x: Tensor, cond: Condition, theta: Parameters | None = None, precision: str | None = None
    ) -> Tensor:
        """The discriminator's outputs (B,), by its own parameters or by others, which leave its buffers as they are."""
        with self._precision(precision or self.config.precision):
            if theta is None:
                own: Tensor = self.discriminator(x, cond)
                return own
            buffers = {name: value.clone() for name, value in self.discriminator.named_buffers()}
            out: Tensor = functional_call(self.discriminator, {**theta, **buffers}, (x, cond))
            return out

    def _precision(self, name: str) -> torch.autocast:
        dtype = arithmetic(name, self.device)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def latents(self, seeds: Sequence[int]) -> Tensor:
        return SeededNoise(seeds).prior(torch.empty(len(seeds), self.config.latent_size))

    @torch.no_grad()
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Samples in blocks of one fixed size, in evaluation mode: no row depends on another or on their number.

        Raises:
            UsageError: no class for a generator that knows pictures with a class alone.
            RunError: samples that are not finite.
        """
        cond = self._asked(cond)
        rows = block_rows(self.generator, self.shape, self.device)
        was_training = self.training
        self.eval()
        try:
            z = latents.to(self.device)
            parts = [self._block(z, cond, start, rows) for start in range(0, len(z), rows)]
        finally:
            self.train(was_training)
        x = torch.cat(parts) if parts else z.new_empty(0, *self.shape)
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum()) if len(x) else 0
        if bad:
            raise RunError(f"{bad} of {len(x)} samples are not finite; the generator's weights are no good")
        return x

    def _block(self, z: Tensor, cond: Condition, start: int, rows: int) -> Tensor:
        index = torch.arange(start, start + rows, device=z.device).clamp(max=len(z) - 1)
        return self._make(z[index], cond.select(index))[: len(z) - start]

    def _asked(self, cond: Condition | None) -> Condition:
        """The label alone, checked."""
        if not self.class_names:
            return Condition()
        label = cond.label if cond is not None else None
        if not self.config.label_dropout and (label is None or bool((label < 0).any())):
            raise UsageError(
                "this GAN was trained with the class of every picture and makes none of no class in particular; name "
                f"a class ({', '.join(self.class_names[:4])}, ...) or train with system.label_dropout above 0"
            )
        return Condition() if label is None else Condition(label=label.to(self.device))

    @torch.no_grad()
    def verdicts(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        cond = self._drop_unknown(cond)
        was_training = self.training
        self.eval()
        try:
            return self._judge(x_0.to(self.device), cond)
        finally:
            self.train(was_training)

    def _drop_unknown(self, cond: Condition | None) -> Condition:
        known = self.class_names and cond is not None and cond.label is not None
        return Condition(label=cond.label.to(self.device)) if known else Condition()  # type: ignore

    def plan(self, options: SamplingOptions = NOTHING_SAID, batching: Batching | None = None) -> Plan:
        _check_plain(options)
        return Plan(
            (GeneratorStage(self.space, self.latents, self.decode, self.conditioner, _check_plain, self._asked),)
        )

    def sampling_facts(self) -> dict[str, Any]:
        return {}

    def compile_networks(self) -> str:
        self.generator.compile()  # a compiled discriminator has no second derivative, which penalties need
        return ""


def _check_plain(options: SamplingOptions) -> None:
    """Refuse a request that asks for any kind of denoising."""
    for name, value in options.said().items():
        if value != option_rows()[name].unsaid or option_rows()[name].kept:
            raise UsageError(f"a GAN makes a sample in one go, without {name}={value!r}; leave it out")


def _report(rows: Tensor, facts: dict[str, Tensor]) -> LossReport:
    return LossReport(rows.mean(), rows.detach(), None, {name: value.detach() for name, value in facts.items()})
