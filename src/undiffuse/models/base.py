"""The interface of generative models, which evaluation, serving and distillation depend on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from undiffuse.conditioning.base import Conditioner
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.models.classifier_guidance import with_classifier
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.part import Part
from undiffuse.models.request import SampleRequest, sampled
from undiffuse.samplers.base import Sampled
from undiffuse.samplers.plan import Plan, run

#: (name of a network in the model, its denoiser) -> the denoiser that batches its evaluations.
Batching = Callable[[str, Denoiser], Denoiser]


class GenerativeModel(nn.Module):
    """Base class of generative models: networks and a sampling method.

    Attributes:
        space: space of the data and the samples.
        class_names: names of the classes that it is conditioned on; empty for none.
        conditioner: encodes prompts and labels into conditions of the networks.
        parts: frozen parts, by the names of their attributes.
        generates: whether samples can be drawn from it; False for models that only guide others, such as a classifier.
    """

    space: Space
    class_names: tuple[str, ...]
    conditioner: Conditioner
    parts: Mapping[str, Part] = MappingProxyType({})
    generates: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) or (D,)."""
        return self.space.shape

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen parts always stay in evaluation mode."""
        super().train(mode)
        for name in self.parts:
            if (part := getattr(self, name, None)) is not None:
                part.eval()
        return self

    def locate_parts(self, folder: Path | None) -> None:
        """Find the parts that are not stored with the model, and check that they are those of training.

        Args:
            folder: folder of the model, for relative paths; None while it is trained.
        Raises:
            UsageError: one is missing or another one.
        """
        self.conditioner.locate(folder)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        """Create a sampling plan for these options.

        Args:
            options: options of the request; the model's defaults are used for all others.
            batching: wraps each network, given its name in the model; by default, networks are evaluated in batches of
                a fixed size. A serving engine can insert its batching layer here, below guidance.
        Returns:
            The stages of sampling, their record, and messages for the user.
        Raises:
            UsageError: if the model does not support an option.
        """
        raise NotImplementedError

    def sample(self, request: SampleRequest) -> Sampled:
        """Generate samples (B, *shape), images in [-1, 1]; also returns the maximum NFE over the samples.

        Args:
            request: seeds, options and conditions; B is the number of seeds.
        Raises:
            UsageError: if the model does not support the request.
            RunError: if a sample is not finite.
        """
        plan, was_training = (
            with_classifier(self.plan(request.options), request, self.class_names, self.shape),
            self.training,
        )
        self.eval()
        try:
            output = run(
                plan, request.requests(), batch_size=request.batch_size, callback=request.callback, take=request.taker
            )
        finally:
            self.train(was_training)
        return sampled(output)

    def sampling_record(self) -> dict[str, Any]:
        """The default sampling options, as plain values for the protocol of a result."""
        return {}

    def compile_networks(self) -> str:
        """Compile the networks in place with torch.compile; returns the reason if they were not compiled."""
        return ""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device


class DenoisingModel(GenerativeModel):
    """A model that samples with a denoiser; required by bounds, likelihoods and most studies.

    Attributes:
        process: forward process of training.
    """

    process: Process

    @property
    @abstractmethod
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR at which the denoiser can be evaluated."""

    @abstractmethod
    def denoiser(self, precision: str | None = None) -> Denoiser:
        """The denoiser, in the configured precision or another (``fp32``, ``bf16``)."""

    @abstractmethod
    def sampling_denoiser(self) -> Denoiser:
        """The denoiser for sampling: in batches of fixed size, with x_0-hat clipped to [-1, 1] if configured."""

    def unguided_denoiser(self) -> Denoiser:
        """The same without any guidance."""
        return self.sampling_denoiser()

    def teacher_denoiser(self) -> Denoiser:
        """``sampling_denoiser`` for training a student, where results may depend on the batch composition."""
        return self.sampling_denoiser()


class OneStepGenerator(GenerativeModel):
    """A model that maps a latent to a sample in one evaluation, as the generator of a GAN does.

    ``sample`` decodes the latents of its seeds.
    """

    @abstractmethod
    def latents(self, seeds: Sequence[int]) -> Tensor:
        """Latents z ~ N(0, I), float32 (B, ...); latent i depends only on seed i.

        Args:
            seeds: B seeds.
        """

    @abstractmethod
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Decode latents into samples (B, *shape), images in [-1, 1], independently of each other.

        Args:
            latents: latents (B, ...), as returned by ``latents``.
            cond: conditions such as labels (B,); None for none.
        """


class AdversarialModel(OneStepGenerator):
    """A generator with the discriminator that it was trained against."""

    @abstractmethod
    def discriminator_logits(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        """The discriminator's logits (B,), in evaluation mode; larger means more real.

        Args:
            x_0: data or samples (B, *shape), images in [-1, 1].
            cond: conditions such as labels (B,); None for none.
        """


def denoising(model: GenerativeModel, what: str) -> DenoisingModel:
    """Check that ``model`` is a denoising model, and return it.

    Args:
        model: a model of any kind.
        what: what needs a denoiser, for the message, such as "metric 'nll'".
    Raises:
        UsageError: if it has no denoiser.
    """
    if not isinstance(model, DenoisingModel):
        raise UsageError(f"{what} needs a denoising model, got a {type(model).__name__}; use a diffusion model")
    return model


def to_uint8(x: Tensor) -> Tensor:
    """Quantise images in [-1, 1] to 256 levels: round(127.5 (x + 1)), clipped to [0, 255].

    Args:
        x: images (..., C, H, W) of any float type.
    Returns:
        uint8 images of the same shape.
    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 1.5])).tolist()
        [0, 128, 255, 255]
    """
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
