"""The contract of what turns labels and prompts into the condition of a network."""

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
    """Fills every field of a condition that its spec knows, so that samples of any prompts can be joined.

    Args:
        spec: what the network is conditioned on.
    """

    def __init__(self, spec: ConditionSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def policy(self) -> DropPolicy:
        """What becomes of each field where a sample is made unconditional."""
        return {**DROP, **self.spec.drop}

    @abstractmethod
    def for_training(self, given: Given, x_0: Tensor, rng: StepRandom) -> Condition:
        """The condition of a training batch, dropped for some samples as guidance needs it.

        Args:
            given: what the data set says of the B items.
            x_0: clean data (B, *shape) in [-1, 1].
            rng: of the step and micro-batch.
        """

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[Prompt]) -> tuple[Condition, Condition]:
        """The condition of prompts, and the one that guidance leads away from; both on the CPU.

        Args:
            prompts: one a sample.
        Raises:
            UsageError: a prompt that the model does not know.
        """
