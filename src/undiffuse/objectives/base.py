"""The contract of what is trained: a model and the loss that teaches it, which whatever trains knows no more of."""

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
    """What an objective is given: clean data in [-1, 1] and what is known about each row."""

    @property
    def x_0(self) -> Tensor: ...

    @property
    def given(self) -> Given: ...


class LossReport(NamedTuple):
    """The scalar to minimise, its part from each row ``(B,)``, and the rows' times ``(B,)`` where they have any.

    ``metrics`` are means () of other things over the rows, by name, that belong into the journal. ``records`` is what
    the objective is told again by ``absorb`` when all micro-batches of the turn are done.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor | None = None
    metrics: Mapping[str, Tensor] = MappingProxyType({})
    records: Mapping[str, Tensor] = MappingProxyType({})


class Phase(NamedTuple):
    """A part of a step with an optimizer of its own.

    Args:
        name: of the optimizer, in the journal and in checkpoints.
        modules: that it moves; what of them asks for no gradient stands still.
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
        """The loss of one micro-batch."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In order; the first comes in every step, and the journal's loss is its own."""
        return (Phase("main", (self.model,)),)

    def phases_due(self, step: int) -> tuple[Phase, ...]:
        """The phases of an optimizer step."""
        return tuple(phase for phase in self.phases if (step + 1) % phase.every == 0)

    def phase(self, name: str) -> Phase:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)

    @contextmanager
    def learning(self, phase: Phase) -> Iterator[None]:
        """What other phases move asks for no gradient in here: it would be computed for nothing."""
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
        """Whether its loss says how well it knows an image, and can be taken here and now: not where that needs a
        teacher that is gone.
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
        """Called once, on ``device``, before the first step and before a checkpoint is read: fetch what only training
        needs, such as a teacher, and begin from its weights.
        """

    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        """Called each time that the optimizer of this phase has moved.

        Args:
            records: of the micro-batches' reports, in their order.
        """

    def after_step(self, average: M, images: int) -> None:
        """Called after each optimizer step, with the averaged model and the images seen so far."""

    def state(self) -> dict[str, Tensor]:
        """What training changes beside the model, by name; checkpoints keep it."""
        models = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        tensors = self.state_dict(keep_vars=True).items()
        own = [(name, value) for name, value in tensors if not name.startswith("model.") and id(value) not in models]
        return {name: value.detach() for name, value in own}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave.

        Raises:
            UsageError: other tensors than it has.
        """
        if told := mismatch(self.state(), tensors):
            raise UsageError(
                f"a checkpoint does not fit this run: of its training state {told}; put back the one that belongs "
                "to it, or start anew in another --out"
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
    """Configuration of an objective, which says of what a model is made for it, and builds itself around one."""

    def finalized(self, class_names: Sequence[str]) -> Self:
        """The same with everything said that it leaves to the data's classes."""
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
            shape: of one example.
            class_names: of the data's labels.
            num_augment_labels: numbers that say how a training image was transformed; 0 where none are told.
        """
        config = self.finalized(class_names)
        return config.around(config.component().build(shape, class_names, num_augment_labels))


C = TypeVar("C", bound=ModelConfig)


def model_config_from(kind: type[C], trained: ObjectiveConfig, **told: Any) -> C:
    """A model's configuration of the options that it shares with what trains it.

    Args:
        told: options of the model that go by other names there.
    """
    shared = (kind.model_fields.keys() & type(trained).model_fields.keys()) - {"name"}
    return kind.model_validate({**{key: getattr(trained, key) for key in shared}, **told})
