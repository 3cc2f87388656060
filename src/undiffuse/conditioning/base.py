"""Base class of the modules that convert labels and prompts to the condition of a network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
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


class EncodedPrompts(NamedTuple):
    """The conditions of B prompts, on the CPU.

    Attributes:
        terms: condition of all samples and weight (B,) float64 of each term of a composition; usually one term of
            weight 1. The first term of a sample has a positive weight; terms that a sample lacks have weight 0.
        negative: negative condition for guidance.
    """

    terms: tuple[tuple[Condition, Tensor], ...]
    negative: Condition

    @classmethod
    def of(cls, condition: Condition, negative: Condition, count: int) -> EncodedPrompts:
        """One term of weight 1.

        Args:
            condition: condition of the samples.
            negative: negative condition of the samples.
            count: B, the number of samples.
        """
        return cls(((condition, torch.ones(count, dtype=torch.float64)),), negative)

    @classmethod
    def join(cls, parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
        """Concatenate the samples of several parts, padded to the same number of terms."""
        most = max(len(part.terms) for part in parts)
        padded = [[*part.terms, *[_without_weight(part.terms[0])] * (most - len(part.terms))] for part in parts]
        terms = [
            (Condition.join([condition for condition, _ in term]), torch.cat([weight for _, weight in term]))
            for term in zip(*padded, strict=True)
        ]
        return cls(tuple(terms), Condition.join([part.negative for part in parts]))

    @property
    def condition(self) -> Condition:
        """The condition of the first term."""
        return self.terms[0][0]

    def to(self, device: torch.device | str) -> EncodedPrompts:
        """A copy with the conditions on another device; weights stay on the CPU."""
        terms = tuple((condition.to(device), weight) for condition, weight in self.terms)
        return EncodedPrompts(terms, self.negative.to(device))


def _without_weight(term: tuple[Condition, Tensor]) -> tuple[Condition, Tensor]:
    return term[0], torch.zeros_like(term[1])


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
    def encode_prompts(self, prompts: Sequence[Prompt]) -> EncodedPrompts:
        """The conditions of prompts and the negative condition for guidance, on the CPU.

        Args:
            prompts: one per sample.
        Raises:
            UsageError: the model does not support a prompt.
        """

    def locate(self, folder: Path | None) -> None:
        """Find the files of a text encoder from elsewhere, and check that they are those of training.

        Args:
            folder: folder of the model, for relative paths.
        Raises:
            UsageError: they are missing or others.
        """

    def part_files(self) -> Mapping[str, Sequence[Path]]:
        """Files of the parts that are not stored with the model, by the name of the part."""
        return {}

    def prepare(self, captions: Iterable[str], num: int) -> int:
        """Encode captions in advance where that is done once, by an encoder that is not trained.

        Args:
            captions: of the training data, with alternatives separated by newlines.
            num: number of captions that training draws.
        Returns:
            Number of distinct texts that were encoded; 0 for none.
        """
        return 0

    def check_prompts(self, prompts: Sequence[Prompt]) -> list[str]:
        """Messages for the user about prompts that are used in part only.

        Args:
            prompts: prompts of a request.
        Raises:
            UsageError: the model does not support a prompt.
        """
        return []
