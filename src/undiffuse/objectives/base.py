"""The contract of objectives: a model and its loss, which is all that the trainer knows of them."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from undiffuse.conditioning.base import Given
from undiffuse.config import ComponentConfig
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.config import ModelConfig
from undiffuse.models.parts import mismatch

M = TypeVar("M", bound=GenerativeModel)


class TrainingBatch(Protocol):
    """What an objective is given: clean data in [-1, 1] and what is known about each sample."""

    @property
    def x_0(self) -> Tensor: ...

    @property
    def given(self) -> Given: ...


class LossReport(NamedTuple):
    """The loss of one micro-batch of B samples.

    Attributes:
        loss: () to minimise.
        per_sample: each sample's part of it, (B,).
        t: the samples' times (B,) in [0, 1]; None where they have none.
        metrics: means () of other things over the samples, by name, for the metrics log.
        records: what ``absorb`` is given when all micro-batches of the phase are done.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor | None = None
    metrics: Mapping[str, Tensor] = MappingProxyType({})
    records: Mapping[str, Tensor] = MappingProxyType({})


class Phase(NamedTuple):
    """A part of a step with an optimizer of its own.

    Args:
        name: of the optimizer, in the metrics log and in checkpoints.
        modules: that it moves; what of them needs no gradient stands still.
        every: it comes once in so many steps.
    """

    name: str
    modules: tuple[nn.Module, ...]
    every: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """What its optimizer moves."""
        return [parameter for module in self.modules for parameter in module.parameters() if parameter.requires_grad]


class Objective(nn.Module, Generic[M]):
    """A model and its loss.

    Only ``model`` is averaged, saved for sampling and sampled from. Other modules, such as a discriminator's
    augmentation or a student's fake score, are training's own: checkpoints keep them (``state``), nothing else does.

    Attributes:
        model: that learns.
        train_validation_metrics: metrics of its loss that validation takes of training data as well, for their
            distance says how well the model tells the two apart.
    """

    model: M
    train_validation_metrics: tuple[str, ...] = ()

    def __init__(self, model: M) -> None:
        super().__init__()
        self.model, self.training = model, model.training

    @abstractmethod
    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        """The loss of one micro-batch.

        Args:
            batch: clean data x_0 (B, *shape) in [-1, 1] and what is known about each sample.
            phase: name of the phase that is due.
            rng: of the step and micro-batch, from which all draws come.
        """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In order; the first comes in every step, and its loss is the one of the metrics log."""
        return (Phase("main", (self.model,)),)

    def phases_due(self, step: int) -> tuple[Phase, ...]:
        """The phases of an optimizer step."""
        return tuple(phase for phase in self.phases if (step + 1) % phase.every == 0)

    def phase(self, name: str) -> Phase:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)

    @contextmanager
    def learning(self, phase: Phase) -> Iterator[None]:
        """Let the parameters of other phases need no gradient: it would be computed for nothing."""
        own = {id(parameter) for parameter in phase.parameters()}
        others = [p for other in self.phases for p in other.parameters() if id(p) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    @property
    def loss_available(self) -> bool:
        """Whether its loss says how well it fits an image, and can be taken here and now: not where a teacher is
        missing.
        """
        return True

    def around(self, model: M) -> Self:
        """The same objective with another model of the same kind, such as the averaged one: all else is shared."""
        other = copy.copy(self)
        other.__dict__ |= {name: dict(self.__dict__[name]) for name in ("_modules", "_buffers", "_parameters")}
        other._modules["model"] = model
        other.training = model.training
        return other

    def begin(self, device: torch.device) -> None:
        """Fetch what only training needs, such as a teacher, and begin from its weights.

        Called once, before the first step and before a checkpoint is read.

        Args:
            device: of the run.
        """

    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        """Called each time that the optimizer of this phase has moved.

        Args:
            phase: its name.
            records: of the micro-batches' reports, in their order.
        """

    def after_step(self, average: M, images: int) -> None:
        """Called after each optimizer step.

        Args:
            average: the averaged model.
            images: seen so far.
        """

    def state(self) -> dict[str, Tensor]:
        """What training changes besides the model, by name; checkpoints keep it."""
        models = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        tensors = self.state_dict(keep_vars=True).items()
        own = [(name, value) for name, value in tensors if not name.startswith("model.") and id(value) not in models]
        return {name: value.detach() for name, value in own}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave.

        Raises:
            UsageError: other tensors than it has.
        """
        if difference := mismatch(self.state(), tensors):
            raise UsageError(
                f"a checkpoint does not fit this run: of its training state {difference}; put back the one that "
                "belongs to it, or start anew in another --out"
            )
        self.load_state_dict(tensors, strict=False)


@contextmanager
def in_evaluation(objective: nn.Module) -> Iterator[None]:
    """Everything within in evaluation mode, and afterwards each module in the mode that it was in."""
    modes = [(module, module.training) for module in objective.modules()]
    objective.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


#: Of whatever model.
AnyObjective = Objective[Any]


class ObjectiveConfig(ComponentConfig):
    """Configuration of an objective, which names the model made for it and builds itself around one."""

    def finalized(self, class_names: Sequence[str]) -> Self:
        """The same with everything decided that it leaves to the data's classes.

        Args:
            class_names: of the data's labels.
        """
        return self

    def component(self) -> ModelConfig:
        """The configuration of the model that it trains."""
        raise NotImplementedError

    def around(self, model: GenerativeModel) -> AnyObjective:
        """The objective with this model, which ``component`` describes."""
        raise NotImplementedError

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> AnyObjective:
        """A fresh objective and model, their weights drawn from torch's global generator.

        Args:
            shape: of one example, (C, H, W) or (D,).
            class_names: of the data's labels.
            num_augment_labels: numbers that say how a training image was transformed; 0 where the network is not
                conditioned on any.
        """
        config = self.finalized(class_names)
        return config.around(config.component().build(shape, class_names, num_augment_labels))


C = TypeVar("C", bound=ModelConfig)


def model_config_from(kind: type[C], trained: ObjectiveConfig, **other: Any) -> C:
    """A model's configuration of the options that it shares with what trains it.

    Args:
        kind: class of the model's configuration.
        trained: configuration of the objective.
        **other: options of the model that have another name there.
    """
    shared = (kind.model_fields.keys() & type(trained).model_fields.keys()) - {"name"}
    return kind.model_validate({**{key: getattr(trained, key) for key in shared}, **other})
