"""The contract of what is sampled: whatever evaluates, serves or teaches by a model knows no more of it."""

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

#: (name of a network in the model, its denoiser) -> the denoiser that batches what it is asked.
Batching = Callable[[str, Denoiser], Denoiser]


class GenerativeModel(nn.Module):
    """Networks and a way to sample.

    Attributes:
        space: of the data and of samples.
        class_names: of the labels it is told; empty for none.
        conditioner: makes what the networks are told.
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
            batching: what becomes of each network by its name in the model; by default it is evaluated in blocks of
                one size. A serving engine puts its hub here, below all guidance.
        Raises:
            UsageError: options that the model cannot serve.
        """
        raise NotImplementedError

    def sample(self, request: SampleRequest) -> Sampled:
        """Samples (B, *shape), images in [-1, 1], and the evaluations that the dearest cost.

        Raises:
            UsageError: what the model cannot serve.
            RunError: samples that are not finite.
        """
        plan, was_training = self.plan(request.options), self.training
        self.eval()
        try:
            made = run(
                plan, request.asks(), batch_size=request.batch_size, callback=request.callback, take=request.taker
            )
        finally:
            self.train(was_training)
        return sampled(made)

    def sampling_record(self) -> dict[str, Any]:
        """How it samples unless asked otherwise, as plain values for a result's protocol."""
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
        """(smallest, largest) log-SNR that its denoiser can be asked for."""

    @abstractmethod
    def denoiser(self, precision: str | None = None) -> Denoiser:
        """Its denoiser, computing in the configured precision or in another (``fp32``, ``bf16``)."""

    @abstractmethod
    def sampling_denoiser(self) -> Denoiser:
        """The denoiser that samples are made with: in blocks of one size, cut to the range of pictures if so set."""

    def unguided_denoiser(self) -> Denoiser:
        """The same without any guidance."""
        return self.sampling_denoiser()

    def teaching_denoiser(self) -> Denoiser:
        """``sampling_denoiser`` for whole batches of a student's, whose rows need not be apart from each other."""
        return self.sampling_denoiser()


class OneStepGenerator(GenerativeModel):
    """A model that turns a latent into a sample in one go, as a generator does; ``sample`` decodes its seeds' own."""

    @abstractmethod
    def latents(self, seeds: Sequence[int]) -> Tensor:
        """What samples of these seeds come from: draws of N(0, I), float32 (B, ...); row i depends on seed i alone."""

    @abstractmethod
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Samples (B, *shape) on the device of latents (B, ...), pictures in [-1, 1]; no row depends on another."""


class AdversarialModel(OneStepGenerator):
    """A generator that learned from a discriminator, which is kept with it."""

    @abstractmethod
    def discriminator_logits(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        """The discriminator's raw outputs (B,) on data or samples as they are, in evaluation mode; more: more real."""


def denoising(model: GenerativeModel, what: str) -> DenoisingModel:
    """``model`` as one with a denoiser.

    Args:
        what: is asked of it, for the message, such as "metric 'nll'".
    Raises:
        UsageError: it has none.
    """
    if not isinstance(model, DenoisingModel):
        raise UsageError(f"{what} needs a model that denoises, this one is a {type(model).__name__} and does not")
    return model


def to_uint8(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] as the nearest of 256 levels; values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
