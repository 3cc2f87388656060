"""Class labels, by name or index; the embedding table is part of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from undiffuse.conditioning.base import Conditioner, EncodedPrompts, Given
from undiffuse.conditioning.prompt import Prompt, no_text
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError
from undiffuse.registry import nearest


class LabelConditioner(Conditioner):
    """The class of each sample and the augmentation of its training image.

    Args:
        spec: see ``Conditioner``.
        dropout: fraction of the training samples whose class is dropped.
    """

    def __init__(self, spec: ConditionSpec, dropout: float = 0.0) -> None:
        super().__init__(spec)
        self.dropout = dropout

    def for_training(self, given: Given, x_0: Tensor, rng: StepRandom) -> Condition:
        condition = self._condition_of(given)
        return condition.drop(rng.uniform(len(x_0), "drop") < self.dropout, self.policy)

    def _condition_of(self, given: Given) -> Condition:
        """Labels and augmentation of a batch, without dropping any."""
        return Condition(
            label=given.label if self.spec.class_names else None,
            augment=given.augment if self.spec.num_augment else None,
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> EncodedPrompts:
        self._check_prompts(prompts)
        if not self.spec.class_names:
            return EncodedPrompts.of(Condition(), Condition(), len(prompts))
        positive = self._encoded_labels(prompts)
        return EncodedPrompts.of(positive, self._negative_labels(prompts, positive), len(prompts))

    def _encoded_labels(self, prompts: Sequence[Prompt]) -> Condition:
        """Labels of prompts, and no augmentation."""
        count, num_augment = len(prompts), self.spec.num_augment
        return Condition(
            label=self._labels([prompt.class_name for prompt in prompts]) if self.spec.class_names else None,
            augment=torch.zeros(count, num_augment) if num_augment else None,
        )

    def _negative_labels(self, prompts: Sequence[Prompt], positive: Condition) -> Condition:
        """Labels of the negative prompts; no label for prompts without one."""
        unconditional = positive.drop(torch.ones(len(prompts), dtype=torch.bool), self.policy)
        if unconditional.label is None:
            return unconditional
        has_negative = torch.tensor([prompt.negative is not None for prompt in prompts], dtype=torch.bool)
        negative = self._labels([None if prompt.negative is None else prompt.negative.class_name for prompt in prompts])
        return replace(unconditional, label=torch.where(has_negative, negative, unconditional.label))

    def _check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check that the model has the classes and takes the kinds of prompts that are given."""
        for prompt in prompts:
            for part in (prompt, prompt.negative):
                if part is not None and part.text is not None and self.spec.text is None:
                    raise UsageError(no_text(part.text, self.spec.class_names))
                if part is not None and part.class_name is not None and not self.spec.class_names:
                    raise UsageError(f"this model knows no classes, got class {part.class_name!r}; leave the class out")

    def _labels(self, names: Sequence[str | None]) -> Tensor:
        return torch.tensor([-1 if name is None else self._number(name) for name in names], dtype=torch.int64)

    def _number(self, name: str) -> int:
        if name not in self.spec.class_names:
            raise UsageError(f"unknown class {name!r}; {nearest(name, self.spec.class_names)}")
        return self.spec.class_names.index(name)
