"""The interface of training objectives (a model and its loss), which is all that the trainer depends on."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

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
    """Input of an objective: clean data in [-1, 1], the conditioning information and the weight of each sample."""

    @property
    def x_0(self) -> Tensor: ...

    @property
    def given(self) -> Given: ...

    @property
    def row_weights(self) -> Tensor | None: ...


class LossReport(NamedTuple):
    """The loss of one micro-batch of B samples.

    Attributes:
        loss: scalar loss () to minimise.
        per_sample: loss of each sample, (B,).
        t: times of the samples (B,) in [0, 1]; None if the loss has no times.
        metrics: further means () over the samples, by name, for the metrics log.
        records: tensors passed to ``absorb`` after all micro-batches of the phase.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor | None = None
    metrics: Mapping[str, Tensor] = MappingProxyType({})
    records: Mapping[str, Tensor] = MappingProxyType({})


class Phase(NamedTuple):
    """A part of a training step with a separate optimizer.

    Args:
        name: name of the optimizer in the metrics log and in checkpoints.
        modules: modules whose parameters it updates; parameters that do not require gradients are left unchanged.
        every: the phase runs once every so many steps.
    """

    name: str
    modules: tuple[nn.Module, ...]
    every: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that its optimizer updates."""
        return [parameter for module in self.modules for parameter in module.parameters() if parameter.requires_grad]


class Objective(nn.Module, Generic[M]):
    """A model and its loss.

    Only ``model`` is averaged, saved for sampling and sampled from. Other modules, such as a discriminator's
    augmentation or a student's fake score, are used in training only and saved in checkpoints only (``state``).

    Attributes:
        model: the model to train.
        train_validation_metrics: loss metrics that validation computes on training data as well; the difference from
            held-out data measures overfitting.
    """

    model: M
    train_validation_metrics: tuple[str, ...] = ()

    def __init__(self, model: M) -> None:
        super().__init__()
        self.model, self.training = model, model.training

    @abstractmethod
    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        """Compute the loss of one micro-batch.

        Args:
            batch: clean data x_0 (B, *shape) in [-1, 1] and the conditioning information of each sample.
            phase: name of the current phase.
            rng: random generator of the step and micro-batch, used for all draws.
        """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in order; the first one runs in every step, and its loss is the one in the metrics log."""
        return (Phase("main", (self.model,)),)

    def phases_due(self, step: int) -> tuple[Phase, ...]:
        """The phases that run in an optimizer step."""
        return tuple(phase for phase in self.phases if (step + 1) % phase.every == 0)

    def phase(self, name: str) -> Phase:
        """The phase with this name."""
        return next(phase for phase in self.phases if phase.name == name)

    @contextmanager
    def learning(self, phase: Phase) -> Iterator[None]:
        """Disable gradients of the parameters of all other phases, to save computation."""
        trained = {id(parameter) for parameter in phase.parameters()}
        frozen = [p for other in self.phases for p in other.parameters() if id(p) not in trained]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @property
    def loss_available(self) -> bool:
        """Whether the loss measures the fit to an image and can be computed now; False if a teacher is missing."""
        return True

    def around(self, model: M) -> Self:
        """The same objective with another model of the same kind, such as the averaged one; the rest is shared."""
        other = copy.copy(self)
        other.__dict__ |= {name: dict(self.__dict__[name]) for name in ("_modules", "_buffers", "_parameters")}
        other._modules["model"] = model
        other.training = model.training
        return other

    def begin(self, device: torch.device) -> None:
        """Load what only training needs, such as a teacher, and initialize the model from it.

        Called once, before the first step and before a checkpoint is loaded.

        Args:
            device: device of the run.
        """

    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        """Called after each optimizer update of a phase.

        Args:
            phase: name of the phase.
            records: ``LossReport.records`` of the micro-batches, in order.
        """

    def after_step(self, average: M, images: int) -> None:
        """Called after each optimizer step.

        Args:
            average: the averaged model.
            images: number of images seen so far.
        """

    def state(self) -> dict[str, Tensor]:
        """Training state that is not part of the model, by name; saved in checkpoints."""
        models = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        tensors = self.state_dict(keep_vars=True).items()
        state = [(name, value) for name, value in tensors if not name.startswith("model.") and id(value) not in models]
        return {name: value.detach() for name, value in state}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load tensors returned by ``state``.

        Raises:
            UsageError: if the names differ from those of ``state``.
        """
        if difference := mismatch(self.state(), tensors):
            raise UsageError(
                f"the checkpoint does not match this run: of its training state {difference}; restore the original "
                "one, or start again in another --out"
            )
        self.load_state_dict(tensors, strict=False)


@contextmanager
def in_evaluation(objective: nn.Module) -> Iterator[None]:
    """Context manager that sets all modules to evaluation mode and restores the mode of each one on exit."""
    modes = [(module, module.training) for module in objective.modules()]
    objective.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


#: An objective with any kind of model.
AnyObjective = Objective[Any]


class ObjectiveConfig(ComponentConfig):
    """Configuration of an objective: defines the configuration of its model and builds the objective.

    Attributes:
        needs_whole_batch: whether its loss compares the items of a batch, so that a batch cannot be split into
            micro-batches.
    """

    needs_whole_batch: ClassVar[bool] = False

    def finalized(self, class_names: Sequence[str], captions: Sequence[str] | None = None) -> Self:
        """This configuration with all options resolved that depend on the data's classes and captions.

        Args:
            class_names: class names of the data.
            captions: training captions, if the data has them.
        """
        return self

    def completed_from(self, earlier: ObjectiveConfig) -> Self:
        """This configuration with options that depend on captions taken from a run that resolved them.

        Args:
            earlier: configuration of the run.
        """
        return self

    def component(self) -> ModelConfig:
        """Configuration of the model to train."""
        raise NotImplementedError

    def around(self, model: GenerativeModel) -> AnyObjective:
        """The objective with this model, which was built from ``component()``."""
        raise NotImplementedError

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> AnyObjective:
        """Build the objective with a new model, initialized from torch's global generator.

        Args:
            shape: shape of one example, (C, H, W) or (D,).
            class_names: class names of the data.
            num_augment_labels: number of augmentation labels that the network is conditioned on; 0 for none.
        """
        config = self.finalized(class_names)
        return config.around(config.component().build(shape, class_names, num_augment_labels))


C = TypeVar("C", bound=ModelConfig)


def model_config_from(kind: type[C], trained: ObjectiveConfig, **other: Any) -> C:
    """Build a model configuration from the options that it shares with an objective's configuration.

    Args:
        kind: class of the model configuration.
        trained: configuration of the objective.
        **other: model options that have another name in the objective's configuration.
    """
    shared = (kind.model_fields.keys() & type(trained).model_fields.keys()) - {"name"}
    return kind.model_validate({**{key: getattr(trained, key) for key in shared}, **other})
