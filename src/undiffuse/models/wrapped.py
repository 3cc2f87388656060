"""Wraps an external denoiser as a model that can be sampled, evaluated, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.processes import make_process
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.models.base import Batching, DenoisingModel
from undiffuse.models.config import ModelConfig
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.models.options import NO_OPTIONS, SamplingConfig, SamplingOptions, sampling_record
from undiffuse.models.stages import DenoisingStage
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.plan import Plan


class WrappedConfig(ModelConfig):
    """Configuration of a wrapped external denoiser, which cannot be built without its code.

    Args:
        space: space of its data.
        sampling: sampling defaults.
    """

    name: Literal["wrapped"] = "wrapped"
    space: Space
    sampling: SamplingConfig = SamplingConfig()

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> WrappedModel:
        raise UsageError(
            "the model has an external denoiser; load it in Python with undiffuse.load(folder, denoiser=...)"
        )


class WrappedModel(DenoisingModel):
    """An external denoiser with a data space, classes and sampling defaults.

    Args:
        denoiser: any denoiser; ``Denoiser.wrap`` creates one from a function.
        space: space of its data.
        class_names: names of the classes that it is conditioned on, by the condition's ``label``; -1 is no class.
        sampling: sampling defaults.
    Example:
        >>> import torch
        >>> from undiffuse.core.processes import FlowProcess
        >>> from undiffuse.models.request import SampleRequest
        >>> denoiser = Denoiser.wrap(lambda x, t: torch.zeros_like(x), FlowProcess(), "x0")
        >>> model = WrappedModel(denoiser, Space.of_data((1, 8, 8)))
        >>> model.sample(SampleRequest.of([0, 1], steps=2)).x.shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        space: Space,
        class_names: Sequence[str] = (),
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.network, self.space, self.class_names, self.sampling = denoiser, space, tuple(class_names), sampling
        self.process = denoiser.process
        self.conditioner = LabelConditioner(ConditionSpec(class_names=self.class_names))

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.network.log_snr_range

    def denoiser(self, precision: str | None = None) -> Denoiser:
        return self.network

    def sampling_denoiser(self) -> Denoiser:
        return self._in_fixed_batches("network", self.network)

    def sampling_record(self) -> dict[str, Any]:
        return sampling_record(self.sampling)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        sampling = options.over(self.sampling)
        self._check(sampling)
        batched: Callable[[str, Denoiser], Denoiser] = batching or self._in_fixed_batches
        stage = DenoisingStage(
            self.space,
            make_sampler(sampling.sampler),
            batched("network", self.network),
            sampling,
            process=None if sampling.process is None else make_process(sampling.process),
            clips=sampling.clip_x_0 and self.space.value_range is not None,
            conditioner=self.conditioner,
            check=self._check,
            device=self.device,
        )
        return Plan((stage,), self.sampling_record())

    def _in_fixed_batches(self, name: str, denoiser: Denoiser) -> Denoiser:
        return FixedBatchDenoiser(denoiser, fixed_batch_size(self.network, self.shape, self.device))

    def _check(self, options: SamplingOptions) -> None:
        """Check that an external denoiser supports the options."""
        if options.guidance != 1 and not self.class_names:
            raise UsageError(
                f"guidance {options.guidance:g} needs a model with classes, this one has none; leave it out"
            )
        for name, value in (("autoguidance", options.autoguidance), ("cache_interval", options.cache_interval)):
            if value != 1:
                raise UsageError(f"{name} {value:g} needs a model trained with undiffuse; leave it out")
