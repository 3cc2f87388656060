"""A student of progressive distillation, which takes fewer steps from one stage of its training to the next."""

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
    """Such a student, see ``DenoisingConfig``.

    Args:
        start_steps: of the first student; its teacher takes twice as many.
    """

    name: Literal["progressive"] = "progressive"
    start_steps: Annotated[int, Field(ge=1, le=1024)] = 16

    def build(
        self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0
    ) -> ProgressiveModel:
        return ProgressiveModel(self, shape, class_names, num_augment_labels)


class ProgressiveModel(NetworkModel):
    """A network that takes ever fewer steps, see ``ProgressiveModelConfig``.

    Args:
        config: of the network and of the first student's steps.
        shape: of one example, (C, H, W) or (D,).
        class_names: of the data's labels; kept where the model is conditioned on them.
        num_augment_labels: numbers that say how a training image was transformed.
    """

    student_steps: Tensor  #: of the student it is now; 0 while it is none yet

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
    def present_steps(self) -> int:
        """Its default number of steps: that of the student it is now, or of the first teacher."""
        return max(int(self.student_steps) or 2 * self.start_steps, self.config.sampling.num_steps)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        return super().plan(options.over(SamplingOptions.of(steps=self.present_steps)), batching)

    def sampling_record(self) -> dict[str, Any]:
        return {**super().sampling_record(), "steps": self.present_steps}
