"""Base class of the modules that convert labels and prompts to the condition of a network."""

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
    """Labels, augmentation parameters and captions of a batch; see ``data.given``."""

    @property
    def label(self) -> Tensor | None: ...

    @property
    def augment(self) -> Tensor | None: ...

    @property
    def captions(self) -> Sequence[str] | None: ...


class Conditioner(nn.Module):
    """Fills every field of a condition in its spec, so that samples of different prompts can be batched.

    Args:
        spec: what the network is conditioned on.
    """

    def __init__(self, spec: ConditionSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def policy(self) -> DropPolicy:
        """How each field is dropped to make a sample unconditional."""
        return {**DROP, **self.spec.drop}

    @abstractmethod
    def for_training(self, given: Given, x_0: Tensor, rng: StepRandom) -> Condition:
        """The condition of a training batch, dropped for a random subset, as classifier-free guidance requires.

        Args:
            given: labels and captions of the B items.
            x_0: clean data (B, *shape) in [-1, 1].
            rng: random numbers of the step and micro-batch.
        """

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[Prompt]) -> tuple[Condition, Condition]:
        """The condition of prompts and the negative condition for guidance, both on the CPU.

        Args:
            prompts: one per sample.
        Raises:
            UsageError: the model does not support a prompt.
        """
