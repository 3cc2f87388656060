"""The contract between what is trained and whatever trains, evaluates or serves it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from undiffuse.conditioning.base import Given
from undiffuse.config import ComponentConfig
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.limits import check_at_least
from undiffuse.models.options import NOTHING_SAID, SamplingOptions
from undiffuse.samplers.base import Progress, Sampled, dearest
from undiffuse.samplers.plan import Ask, Plan, SamplerOutput, run


class TrainingBatch(Protocol):
    """What a system is trained on: clean data in [-1, 1] and what is known about each row."""

    @property
    def x_0(self) -> Tensor: ...

    @property
    def given(self) -> Given: ...


class LossReport(NamedTuple):
    """The scalar to minimise, its part from each row ``(B,)``, and the rows' times ``(B,)`` where they have any.

    ``facts`` are means () of other things over the rows, by name, that belong into the journal.
    """

    loss: Tensor
    rows: Tensor
    t: Tensor | None = None
    facts: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class SampleRequest:
    """What to sample.

    Args:
        seeds: one an image; image i depends on seeds[i] alone.
        options: how; what they leave unsaid is the model's own.
        cond: one row a seed.
        batch_size: images in memory at a time; changes no bit of any image.
        callback: sees every step of every batch: (number of the batch's first image, progress).
        take: is given each batch when it is done, (number of its first image, samples), which are then kept no
            longer: what is returned holds none.
        images: x_0 (B, C, H, W) in [-1, 1] to begin from, see ``strength``; None for noise alone.
    """

    seeds: Sequence[int]
    options: SamplingOptions = NOTHING_SAID
    cond: Condition | None = None
    batch_size: int = 64
    callback: Callable[[int, Progress], None] | None = None
    take: Callable[[int, Sampled], None] | None = None
    images: Tensor | None = None

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size)

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        *,
        cond: Condition | None = None,
        batch_size: int = 64,
        callback: Callable[[int, Progress], None] | None = None,
        take: Callable[[int, Sampled], None] | None = None,
        images: Tensor | None = None,
        **said: Any,
    ) -> SampleRequest:
        """A request whose options are keywords, by the names they are said with; see ``SamplingOptions.of``."""
        return cls(seeds, SamplingOptions.of(**said), cond, batch_size, callback, take, images)

    def asks(self) -> list[Ask]:
        """One for each seed."""
        rows = range(len(self.seeds))
        told = [None if self.cond is None else self.cond.select(slice(row, row + 1)) for row in rows]
        images = [None] * len(rows) if self.images is None else list(self.images)
        return [Ask(self.seeds[row], prompt=told[row], image=images[row]) for row in rows]

    @property
    def taker(self) -> Callable[[int, SamplerOutput], None] | None:
        """``take`` as the loop calls it."""
        take = self.take
        return None if take is None else lambda first, made: take(first, sampled(made))


def sampled(made: SamplerOutput) -> Sampled:
    """What a run has made, with the evaluations of the row that took most."""
    return Sampled(made.x, dearest(made.nfe), made.note, dearest(made.partial_nfe))


class Opened(Protocol):
    """The folder of a model, opened."""

    @property
    def system(self) -> System: ...

    @property
    def weights_sha256(self) -> str: ...


#: (name of a network in the model, its denoiser) -> the denoiser that batches what it is asked.
Batching = Callable[[str, Denoiser], Denoiser]
#: (folder, device) -> the model in it.
OpenModel = Callable[[str, torch.device | str], Opened]


def no_other_models(folder: str, device: torch.device | str) -> Opened:
    """Of a system that was not built from a ``config.json`` and so was not told how."""
    raise UsageError(f"{folder}: a system that was built by hand opens no other model; give it its open_model")


class System(nn.Module):
    """Networks with a loss and a way to sample.

    Attributes:
        phases: names of the optimizers; the journal's loss is that of the first.
        space: of the data and of samples.
        class_names: of the labels it is told; empty for none.
        compared: facts of its loss that validation takes of training data as well, for their distance says how well
            the system tells the two apart.
        open_model: how another model's folder is opened, such as a teacher's: told by what builds a system of a
            configuration, which knows all of them, where none of them knows the others.
    """

    open_model: OpenModel = staticmethod(no_other_models)
    phases: tuple[str, ...] = ("main",)
    compared: tuple[str, ...] = ()
    space: Space
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, (C, H, W) or (D,)."""
        return self.space.shape

    @abstractmethod
    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        """The loss of one micro-batch."""

    def plan(self, options: SamplingOptions = NOTHING_SAID, batching: Batching | None = None) -> Plan:
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

    def sampling_facts(self) -> dict[str, Any]:
        """How it samples unless asked otherwise, as plain values for a result's protocol."""
        return {}

    @property
    def loss_at_hand(self) -> bool:
        """Whether its loss says how well it knows a picture, and can be taken here and now: not where that needs a
        teacher that is gone.
        """
        return True

    def turns(self, step: int) -> tuple[str, ...]:
        """The phases of an optimizer step, in order: all of them unless some come less often; the first always does."""
        return self.phases

    def after_turn(self, phase: str) -> None:
        """Called each time that the optimizer of this phase has moved."""

    def parameters_of(self, phase: str) -> list[nn.Parameter]:
        """What the optimizer of this phase moves."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def compile_networks(self) -> str:
        """Let torch compile the networks in place; if that is better left, the reason why it was."""
        return ""

    def after_step(self, average: System, images: int) -> None:
        """Called after each optimizer step, with the averaged system and the images seen so far."""

    def training_state(self) -> dict[str, Tensor]:
        """What training changes beside the weights and no saved model needs; checkpoints keep it."""
        return {}

    def load_training_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``training_state`` gave."""

    def begin_training(self, device: torch.device) -> None:
        """Called once, on ``device``, before the first step and before a checkpoint is read: fetch what only training
        needs, such as a teacher, and begin from its weights.
        """

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


class DenoisingSystem(System):
    """A system whose samples come out of a denoiser; bounds, likelihoods and most studies are about those.

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


def denoising(system: System, what: str) -> DenoisingSystem:
    """``system`` as one with a denoiser.

    Args:
        what: is asked of it, for the message, such as "metric 'nll'".
    Raises:
        UsageError: it has none.
    """
    if not isinstance(system, DenoisingSystem):
        raise UsageError(f"{what} needs a model that denoises, this one is a {type(system).__name__} and does not")
    return system


class LatentSystem(System):
    """A system that turns a latent into a sample in one go, as a generator does; ``sample`` decodes its seeds' own."""

    @abstractmethod
    def latents(self, seeds: Sequence[int]) -> Tensor:
        """What samples of these seeds come from: draws of N(0, I), float32 (B, ...); row i depends on seed i alone."""

    @abstractmethod
    def decode(self, latents: Tensor, cond: Condition | None = None) -> Tensor:
        """Samples (B, *shape) on the device of latents (B, ...), pictures in [-1, 1]; no row depends on another."""


class AdversarialSystem(LatentSystem):
    """A generator that learned from a discriminator, which is kept with it."""

    @abstractmethod
    def verdicts(self, x_0: Tensor, cond: Condition | None = None) -> Tensor:
        """The discriminator's raw outputs (B,) on data or samples as they are, in evaluation mode; more: more real."""


class SystemConfig(ComponentConfig):
    """Configuration of a system, which builds it for data of a given shape."""

    def settled(self, class_names: Sequence[str]) -> Self:
        """The same with everything said that it leaves to the data's classes."""
        return self

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> System:
        """A fresh system, its weights drawn from torch's global generator.

        Args:
            shape: of one example.
            class_names: of the data's labels.
            num_augment_labels: numbers that say how a training picture was transformed; 0 where none are told.
        """
        raise NotImplementedError


def to_uint8(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] as the nearest of 256 levels; values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
