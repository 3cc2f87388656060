"""Student models of progressive distillation, whose number of sampling steps decreases during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from undiffuse.models.base import Batching
from undiffuse.models.config import ModelConfig
from undiffuse.models.denoising import DenoisingConfig, NetworkModel
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.samplers.plan import Plan


class ProgressiveModelConfig(DenoisingConfig, ModelConfig):
    """Configuration of a progressive distillation student, see ``DenoisingConfig``.

    Args:
        start_steps: sampling steps of the first student; its teacher takes twice as many.
    """

    name: Literal["progressive"] = "progressive"
    start_steps: Annotated[int, Field(ge=1, le=1024)] = 16

    def build(
        self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> ProgressiveModel:
        return ProgressiveModel(self, shape, class_names, num_augment_labels)


class ProgressiveModel(NetworkModel):
    """A denoising model with a decreasing number of sampling steps, see ``ProgressiveModelConfig``.

    Args:
        config: configuration of the network and the first student's steps.
        shape: shape of one example, (C, H, W) or (D,).
        class_names: class names of the data; ignored if the model is not class-conditional.
        num_augment_labels: number of augmentation labels that the network is conditioned on.
    """

    student_steps: Tensor  #: sampling steps of the current student; 0 while the first teacher is trained

    def __init__(
        self,
        config: ProgressiveModelConfig,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        num_augment_labels: int = 0,
    ) -> None:
        super().__init__(config, shape, class_names, num_augment_labels)
        self.start_steps = config.start_steps
        self.register_buffer("student_steps", torch.zeros((), dtype=torch.int64))

    @property
    def current_steps(self) -> int:
        """Default number of sampling steps: that of the current student, or of the first teacher."""
        return max(int(self.student_steps) or 2 * self.start_steps, self.config.sampling.num_steps)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        return super().plan(options.over(SamplingOptions.of(steps=self.current_steps)), batching)

    def sampling_record(self) -> dict[str, Any]:
        return {**super().sampling_record(), "steps": self.current_steps}
