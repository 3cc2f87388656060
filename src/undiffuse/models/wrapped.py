"""A denoiser that was written elsewhere, as a model like ours: planned, sampled, measured, saved and opened again."""

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
    """What a folder says of a denoiser from elsewhere; it is built by its own code.

    Args:
        space: of its data.
        sampling: defaults.
    """

    name: Literal["wrapped"] = "wrapped"
    space: Space
    sampling: SamplingConfig = SamplingConfig()

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> WrappedModel:
        raise UsageError(
            "its denoiser was written elsewhere; open it in Python with undiffuse.load(folder, denoiser=...)"
        )


class WrappedModel(DenoisingModel):
    """``denoiser`` with a space, classes and defaults of sampling.

    Args:
        denoiser: of any origin; ``Denoiser.wrap`` makes one of a function.
        space: of its data.
        class_names: of the labels that it is conditioned on, in its condition's ``label``; -1 is no class.
        sampling: its defaults.
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
        wanted = options.over(self.sampling)
        self._check(wanted)
        batched: Callable[[str, Denoiser], Denoiser] = batching or self._in_fixed_batches
        stage = DenoisingStage(
            self.space,
            make_sampler(wanted.sampler),
            batched("network", self.network),
            wanted,
            process=None if wanted.process is None else make_process(wanted.process),
            clips=wanted.clip_x_0 and self.space.value_range is not None,
            conditioner=self.conditioner,
            check=self._check,
            device=self.device,
        )
        return Plan((stage,), self.sampling_record())

    def _in_fixed_batches(self, name: str, denoiser: Denoiser) -> Denoiser:
        return FixedBatchDenoiser(denoiser, fixed_batch_size(self.network, self.shape, self.device))

    def _check(self, wanted: SamplingOptions) -> None:
        """Refuse what a denoiser from elsewhere does not have."""
        if wanted.guidance != 1 and not self.class_names:
            raise UsageError(
                f"guidance {wanted.guidance:g} needs a model with classes, this one has none; leave it out"
            )
        for name, value in (("autoguidance", wanted.autoguidance), ("cache_interval", wanted.cache_interval)):
            if value != 1:
                raise UsageError(f"{name} {value:g} needs a model that was trained here; leave it out")
