"""The contract between what is trained and whatever trains, evaluates or serves it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from undiffuse.conditioning.base import Given
from undiffuse.config import ComponentConfig
from undiffuse.core.condition import Condition
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel, OneStepGenerator


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


class Opened(Protocol):
    """The folder of a model, opened."""

    @property
    def system(self) -> GenerativeModel: ...

    @property
    def weights_sha256(self) -> str: ...


#: (folder, device) -> the model in it.
OpenModel = Callable[[str, torch.device | str], Opened]


def no_other_models(folder: str, device: torch.device | str) -> Opened:
    """Of a system that was not built from a ``config.json`` and so was not told how."""
    raise UsageError(f"{folder}: a system that was built by hand opens no other model; give it its open_model")


class System(GenerativeModel):
    """A model and its loss.

    Attributes:
        phases: names of the optimizers; the journal's loss is that of the first.
        compared: facts of its loss that validation takes of training data as well, for their distance says how well
            the system tells the two apart.
        open_model: how another model's folder is opened, such as a teacher's: told by what builds a system of a
            configuration, which knows all of them, where none of them knows the others.
    """

    open_model: OpenModel = staticmethod(no_other_models)
    phases: tuple[str, ...] = ("main",)
    compared: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        """The loss of one micro-batch."""

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


class AdversarialSystem(OneStepGenerator, System):
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
