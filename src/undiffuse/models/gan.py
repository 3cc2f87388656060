"""GAN models: a generator with the discriminator that it was trained against.

Source: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from undiffuse.compute.backend import compute_dtype
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.config import Component, ComponentConfig
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.space import Space
from undiffuse.errors import RunError, UsageError
from undiffuse.models.base import AdversarialModel, Batching
from undiffuse.models.config import ModelConfig
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.models.options import NO_OPTIONS, SamplingOptions, option_rows
from undiffuse.models.stages import GeneratorStage
from undiffuse.networks.gan import DISCRIMINATOR_CONFIGS, GENERATOR_CONFIGS, build_discriminator, build_generator
from undiffuse.networks.gan.config import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.plan import Plan

#: Parameters of a discriminator by name.
Parameters = Mapping[str, Tensor]


class GanPartsConfig(ComponentConfig):
    """Options shared by GAN models and the objective that trains them.

    Args:
        generator, discriminator: architectures of the networks.
        latent_size: dimension of the latents, which are drawn from N(0, I).
        precision: precision of the networks' arithmetic.
        class_conditional: condition both networks on the class of each image; requires data with classes.
        label_dropout: fraction of training samples whose label is dropped, so that unconditional samples can be drawn.
    """

    generator: Annotated[ComponentConfig, Component(GENERATOR_CONFIGS, "generator")] = DCGANGeneratorConfig()
    discriminator: Annotated[ComponentConfig, Component(DISCRIMINATOR_CONFIGS, "discriminator")] = (
        DCGANDiscriminatorConfig()
    )
    latent_size: Annotated[int, Field(ge=1)] = 100
    precision: Literal["fp32", "bf16"] = "fp32"
    class_conditional: bool = False
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class GanModelConfig(GanPartsConfig, ModelConfig):
    """Configuration of a GAN model, see ``GanPartsConfig``."""

    name: Literal["gan"] = "gan"

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> GanModel:
        if num_augment_labels:
            raise UsageError(
                "augment.condition=true conditions the network on augmentation labels, which GANs do not support; "
                "set augment.condition=false, or use system.augment to transform both data and samples"
            )
        return GanModel(self, shape, class_names)


class GanModel(AdversarialModel):
    """A generator and a discriminator, see ``GanPartsConfig``.

    Args:
        config: configuration of both networks.
        shape: shape of one example, (C, H, W) or (D,).
        class_names: class names of the data; ignored if the networks are not class-conditional.
    Raises:
        UsageError: if ``class_conditional`` is set and the data has no classes.
    """

    def __init__(self, config: GanPartsConfig, shape: tuple[int, ...], class_names: Sequence[str]) -> None:
        super().__init__()
        if config.class_conditional and not class_names:
            raise UsageError(
                "system.class_conditional=true, but the data has no classes; use data with classes or set "
                "system.class_conditional=false"
            )
        self.config, self.space = config, Space.of_data(shape)
        self.class_names = tuple(class_names) if config.class_conditional else ()
        self.conditioner = LabelConditioner(ConditionSpec(class_names=self.class_names), config.label_dropout)
        count = len(self.class_names)
        self.generator = build_generator(config.generator, self.shape, config.latent_size, count)
        self.discriminator = build_discriminator(config.discriminator, self.shape, count)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        _check_plain(options)
        return Plan(
            (GeneratorStage(self.space, self.latents, self.decode, self.conditioner, _check_plain, self._label_of),)
        )

    def latents(self, seeds: Sequence[int]) -> Tensor:
        return SeededNoise(seeds).prior(torch.empty(len(seeds), self.config.latent_size))

    @torch.no_grad()
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Decode latents in batches of fixed size, in evaluation mode, so that samples do not depend on each other.

        Args:
            latents: latents (B, latent_size).
            cond: labels (B,); None for unconditional samples.
        Returns:
            Samples (B, *shape), images in [-1, 1].
        Raises:
            UsageError: if a label is missing and the generator was trained without label dropout.
            RunError: if a sample is not finite.
        """
        cond = self._label_of(cond)
        size = fixed_batch_size(self.generator, self.shape, self.device)
        was_training = self.training
        self.eval()
        try:
            z = latents.to(self.device)
            parts = [self._batch(z, cond, start, size) for start in range(0, len(z), size)]
        finally:
            self.train(was_training)
        x = torch.cat(parts) if parts else z.new_empty(0, *self.shape)
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum()) if len(x) else 0
        if bad:
            raise RunError(f"{bad} of {len(x)} samples are not finite; the generator's weights are unusable")
        return x

    def _batch(self, z: Tensor, cond: Condition, start: int, size: int) -> Tensor:
        index = torch.arange(start, start + size, device=z.device).clamp(max=len(z) - 1)
        return self.generate(z[index], cond.select(index))[: len(z) - start]

    def _label_of(self, cond: Condition | None) -> Condition:
        """The condition reduced to its labels, which are checked."""
        if not self.class_names:
            return Condition()
        label = cond.label if cond is not None else None
        if not self.config.label_dropout and (label is None or bool((label < 0).any())):
            raise UsageError(
                "this GAN was trained without label dropout and cannot generate unconditional samples; specify "
                f"a class ({', '.join(self.class_names[:4])}, ...) or train with system.label_dropout above 0"
            )
        return Condition() if label is None else Condition(label=label.to(self.device))

    @torch.no_grad()
    def discriminator_logits(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        cond = self._drop_unknown(cond)
        was_training = self.training
        self.eval()
        try:
            return self.discriminate(x_0.to(self.device), cond)
        finally:
            self.train(was_training)

    def _drop_unknown(self, cond: Condition | None) -> Condition:
        known = self.class_names and cond is not None and cond.label is not None
        return Condition(label=cond.label.to(self.device)) if known else Condition()  # type: ignore

    def generate(self, z: Tensor, cond: Condition) -> Tensor:
        """Generate samples (B, *shape) in the generator's current mode.

        Args:
            z: latents (B, latent_size).
            cond: labels (B,), or empty.
        """
        with self._precision(self.config.precision):
            samples: Tensor = self.generator(z, cond)
        return samples.to(z.dtype)

    def discriminate(
        self, x: Tensor, cond: Condition, theta: Parameters | None = None, precision: str | None = None
    ) -> Tensor:
        """The discriminator's logits (B,). With ``theta``, its buffers are not updated.

        Args:
            x: data or samples (B, *shape), images in [-1, 1].
            cond: labels (B,), or empty.
            theta: parameters to use instead of the discriminator's, by name; None for the discriminator's.
            precision: ``fp32`` or ``bf16``; the configured one by default.
        """
        with self._precision(precision or self.config.precision):
            if theta is None:
                logits: Tensor = self.discriminator(x, cond)
                return logits
            buffers = {name: value.clone() for name, value in self.discriminator.named_buffers()}
            out: Tensor = functional_call(self.discriminator, {**theta, **buffers}, (x, cond))
            return out

    def _precision(self, name: str) -> torch.autocast:
        dtype = compute_dtype(name, self.device)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def compile_networks(self) -> str:
        self.generator.compile()  # compiled networks have no second derivatives, which the penalties need
        return ""


def _check_plain(options: SamplingOptions) -> None:
    """Check that no options of denoising models are given."""
    for name, value in options.given().items():
        if value != option_rows()[name].default or option_rows()[name].saved:
            raise UsageError(f"a GAN samples in one evaluation and has no option {name}={value!r}; leave it out")
