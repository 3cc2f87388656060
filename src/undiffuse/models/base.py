"""The contract of generative models: all that evaluation, serving and distillation know of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.part import Part
from undiffuse.models.request import SampleRequest, sampled
from undiffuse.samplers.base import Sampled
from undiffuse.samplers.plan import Plan, run

#: (name of a network in the model, its denoiser) -> the denoiser that batches its evaluations.
Batching = Callable[[str, Denoiser], Denoiser]


class GenerativeModel(nn.Module):
    """Networks and a way to sample.

    Attributes:
        space: of the data and of samples.
        class_names: of the labels that it is conditioned on; empty for none.
        conditioner: makes what the networks are conditioned on.
        parts: by the names of their attributes, those that are frozen.
    """

    space: Space
    class_names: tuple[str, ...]
    conditioner: Conditioner
    parts: Mapping[str, Part] = MappingProxyType({})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, (C, H, W) or (D,)."""
        return self.space.shape

    def train(self, mode: bool = True) -> Self:
        """The frozen parts never are in training mode."""
        super().train(mode)
        for name in self.parts:
            if (part := getattr(self, name, None)) is not None:
                part.eval()
        return self

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        """How samples are made for these options.

        Args:
            options: that a request gives; the model's defaults take the place of the others.
            batching: what becomes of each network by its name in the model; by default it is evaluated in batches of
                one fixed size. A serving engine puts its hub here, below all guidance.
        Returns:
            The stages of sampling, what a record says of them, and what a user should know.
        Raises:
            UsageError: options that the model cannot serve.
        """
        raise NotImplementedError

    def sample(self, request: SampleRequest) -> Sampled:
        """Samples (B, *shape), images in [-1, 1], and the NFE of the sample that took most.

        Args:
            request: seeds, options and conditions; B is its number of seeds.
        Raises:
            UsageError: what the model cannot serve.
            RunError: samples that are not finite.
        """
        plan, was_training = self.plan(request.options), self.training
        self.eval()
        try:
            made = run(
                plan, request.requests(), batch_size=request.batch_size, callback=request.callback, take=request.taker
            )
        finally:
            self.train(was_training)
        return sampled(made)

    def sampling_record(self) -> dict[str, Any]:
        """How it samples by default, as plain values for a result's protocol."""
        return {}

    def compile_networks(self) -> str:
        """Let torch compile the networks in place; if that is better left, the reason why it was."""
        return ""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


class DenoisingModel(GenerativeModel):
    """A model whose samples come out of a denoiser; bounds, likelihoods and most studies are about those.

    Attributes:
        process: the forward process that it was trained under.
    """

    process: Process

    @property
    @abstractmethod
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR at which its denoiser can be evaluated."""

    @abstractmethod
    def denoiser(self, precision: str | None = None) -> Denoiser:
        """Its denoiser, computing in the configured precision or in another (``fp32``, ``bf16``)."""

    @abstractmethod
    def sampling_denoiser(self) -> Denoiser:
        """The denoiser that samples are made with: in batches of one size, x_0-hat clipped to [-1, 1] if so set."""

    def unguided_denoiser(self) -> Denoiser:
        """The same without any guidance."""
        return self.sampling_denoiser()

    def teaching_denoiser(self) -> Denoiser:
        """``sampling_denoiser`` for whole batches of a student's, whose samples need not be kept apart."""
        return self.sampling_denoiser()


class OneStepGenerator(GenerativeModel):
    """A model that maps a latent to a sample in one evaluation, as the generator of a GAN does.

    ``sample`` decodes the latents of its seeds.
    """

    @abstractmethod
    def latents(self, seeds: Sequence[int]) -> Tensor:
        """Latents z ~ N(0, I), float32 (B, ...), of these seeds; latent i depends on seed i alone.

        Args:
            seeds: B of them.
        """

    @abstractmethod
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Samples (B, *shape) of latents, on their device, images in [-1, 1]; none depends on another of the batch.

        Args:
            latents: (B, ...), as ``latents`` gives them.
            cond: labels (B,) and the like; None for none.
        """


class AdversarialModel(OneStepGenerator):
    """A generator that was trained against a discriminator, which is kept with it."""

    @abstractmethod
    def discriminator_logits(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        """The discriminator's logits (B,), in evaluation mode; larger means more real.

        Args:
            x_0: data or samples (B, *shape), images in [-1, 1].
            cond: labels (B,) and the like; None for none.
        """


def denoising(model: GenerativeModel, what: str) -> DenoisingModel:
    """``model`` as one with a denoiser.

    Args:
        model: of whatever kind.
        what: needs a denoiser, for the message, such as "metric 'nll'".
    Raises:
        UsageError: it has none.
    """
    if not isinstance(model, DenoisingModel):
        raise UsageError(f"{what} needs a model that denoises, this one is a {type(model).__name__} and does not")
    return model


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as the nearest of 256 levels: round(127.5 (x + 1)), clipped to [0, 255].

    Args:
        x: (..., C, H, W), of any float type.
    Returns:
        uint8, of the same shape.
    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 1.5])).tolist()
        [0, 128, 255, 255]
    """
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
