"""What turns the sayings of data and users into the condition that a network is told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition import DROP, Condition, DropPolicy
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom


class Given(Protocol):
    """What a data set says of the items of a batch; see ``data.given``."""

    @property
    def label(self) -> Tensor | None: ...

    @property
    def augment(self) -> Tensor | None: ...

    @property
    def captions(self) -> Sequence[str] | None: ...


class Conditioner(nn.Module):
    """Fills every field of a condition that its spec knows, so that rows of any wishes can be joined.

    Args:
        spec: what the network is told.
    """

    def __init__(self, spec: ConditionSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def policy(self) -> DropPolicy:
        """What becomes of each field where a row is made unconditional."""
        return {**DROP, **self.spec.drop}

    @abstractmethod
    def for_training(self, given: Given, x_0: Tensor, rng: StepRandom) -> Condition:
        """What the network is told of a training batch x_0 (B, ...), some rows of which without their wishes."""

    @abstractmethod
    def asked(self, prompts: Sequence[Prompt]) -> tuple[Condition, Condition]:
        """What the network is told of wishes, and of what guidance leads away from; both on the CPU."""
