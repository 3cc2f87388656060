"""Models of one denoising network under one process, whatever the loss that trained it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.compiled import compile_in_place
from undiffuse.compute.inference import InferenceNetwork
from undiffuse.compute.threaded_batch import threaded, uses_fused_norm
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.denoiser import ClippedDenoiser, Denoiser, FeatureCachingDenoiser, NetworkDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess, make_process
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.guidance.autoguidance import Autoguided
from undiffuse.guidance.classifier_free import ClassifierFree
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.models.base import Batching, DenoisingModel
from undiffuse.models.config import ModelConfig
from undiffuse.models.feature_caching import caching_sampler, check_without_guidance
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.models.noisy_start import sampling_log_snr_range, signal_at_start, transferred
from undiffuse.models.options import NO_OPTIONS, GuidanceWeight, SamplingConfig, SamplingOptions, sampling_record
from undiffuse.models.rules import check_guidance, check_guiding, no_guide
from undiffuse.models.stages import DenoisingStage
from undiffuse.networks import NETWORK_CONFIGS, UNetConfig, build_network
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.plan import Plan

#: Options of sampling without a guide.
_UNGUIDED = {"autoguidance": 1.0, "autoguidance_interval": None}


class DenoisingConfig(ComponentConfig):
    """Configuration of such a model, and so of whatever trains one.

    Args:
        process: a row of ``PROCESSES`` with its options.
        parameterization: what the network predicts.
        network: its architecture.
        precision: of the network's arithmetic, in training and in sampling.
        class_conditional: condition the network on the class of each image; data without classes is refused. ``auto``
            conditions it where the data has classes, which is decided for good before training.
        label_dropout: share of the training samples without their label, so that the model also learns without one.
        sampling: defaults.
    """

    process: Annotated[ComponentConfig, Component(PROCESSES, "process")] = default_of("flow", FlowProcess)
    parameterization: str = "flow"
    network: Annotated[ComponentConfig, Component(NETWORK_CONFIGS, "network")] = UNetConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    class_conditional: bool | Literal["auto"] = False
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    sampling: SamplingConfig = SamplingConfig()

    def finalized(self, class_names: Sequence[str]) -> Self:
        """The same with ``auto`` decided; without classes there is no guidance by them either.

        Args:
            class_names: of the data's labels.
        """
        if self.class_conditional != "auto":
            return self
        changed: dict[str, Any] = {"class_conditional": bool(class_names)}
        if not class_names:
            changed["sampling"] = self.sampling.model_copy(update={"guidance": 1.0, "guidance_interval": None})
        return self.model_copy(update=changed)

    @property
    def predicts_variance(self) -> bool:
        """Whether the network also predicts the variance of the reverse step."""
        return False

    @property
    def needs_target_time(self) -> bool:
        """Whether the network is conditioned on the time that a mean velocity reaches to."""
        return False

    @property
    def has_guide(self) -> bool:
        """Whether an earlier state of the network is kept for autoguidance."""
        return False

    @property
    def density(self) -> ComponentConfig | None:
        """Where in time the model was trained, a row of ``TIME_DENSITIES``; None for all of time."""
        return None

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        process: Process = build(PROCESSES, self.process)
        Parameterization(self.parameterization, process)
        if make_sampler(self.sampling.sampler).needs_learned_variance and not self.predicts_variance:
            raise UsageError(
                f"sampling.sampler={self.sampling.sampler!r} needs system.learned_variance=true; say "
                "system.sampling.sampler=ancestral:variance=beta"
            )
        time_grid(self.sampling.grid, process, self.sampling.num_steps)
        check_guiding(self)
        return self


class DenoisingModelConfig(DenoisingConfig, ModelConfig):
    """A model of one network, see ``DenoisingConfig``.

    Args:
        learned_variance: the network also predicts the variance of the reverse step.
        target_time: the network is conditioned on the time that a mean velocity reaches to.
        guide: an earlier state of the network is kept for autoguidance.
        trained_density: where in time it was trained; it is evaluated nowhere beyond. None for all of time.
    """

    name: Literal["denoising"] = "denoising"
    learned_variance: bool = False
    target_time: bool = False
    guide: bool = False
    trained_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] | None = None

    @property
    def predicts_variance(self) -> bool:
        return self.learned_variance

    @property
    def needs_target_time(self) -> bool:
        return self.target_time

    @property
    def has_guide(self) -> bool:
        return self.guide

    @property
    def density(self) -> ComponentConfig | None:
        return self.trained_density

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> NetworkModel:
        return NetworkModel(self, shape, class_names, num_augment_labels)


class NetworkModel(DenoisingModel):
    """One denoising network under one process.

    Args:
        config: see ``DenoisingConfig`` and its kinds.
        shape: of one example, (C, H, W) or (D,).
        class_names: of the data's labels; kept where the model is conditioned on them.
        num_augment_labels: numbers that say how a training image was transformed.
    Raises:
        UsageError: ``class_conditional`` on data without classes.
    """

    config: DenoisingConfig
    guide_seen: Tensor  #: images seen when the guide was taken; 0: not yet

    def __init__(
        self,
        config: DenoisingConfig,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        num_augment_labels: int = 0,
    ) -> None:
        super().__init__()
        config = config.finalized(class_names)
        self.config, self.space = config, Space.of_data(shape)
        self.class_names = tuple(class_names) if config.class_conditional else ()
        self.process = build(PROCESSES, config.process)
        factor = 2 if config.predicts_variance else 1
        self.spec = ConditionSpec(
            class_names=self.class_names, num_augment=num_augment_labels, target_time=config.needs_target_time
        )
        self.conditioner = LabelConditioner(self.spec, config.label_dropout)
        self.network = build_network(config.network, self.shape, self.spec, factor)
        if config.class_conditional and not class_names:
            raise UsageError(
                "system.class_conditional=true, but the data has no classes; give data with classes or say "
                "system.class_conditional=false"
            )
        self.guide: nn.Module | None = None  # an earlier state of the network, in models that keep one
        if config.has_guide:
            self.guide = copy.deepcopy(self.network).requires_grad_(False)
            self.register_buffer("guide_seen", torch.zeros((), dtype=torch.int64))
        self.parameterization = Parameterization(config.parameterization, self.process)
        density = config.density
        self._density: TimeDensity | None = None if density is None else build(TIME_DENSITIES, density)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """From the noisiest to the cleanest level of its training, as far as the network can be evaluated there.

        Infinite where that reaches an end; see ``sampling_log_snr_range``.
        """
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        if self._density is not None:
            ends = self._density(self.process, ends)
        return sampling_log_snr_range(self.parameterization, ends)

    @property
    def guide_taken(self) -> bool:
        """Whether there is a guide."""
        return self.guide is not None and int(self.guide_seen) > 0

    def store_guide(self, network: nn.Module, images: int) -> None:
        """Keep a network as it is now as the guide of autoguidance.

        Args:
            network: whose weights are copied.
            images: seen in training until now.
        """
        assert self.guide is not None
        self.guide.load_state_dict(network.state_dict())
        self.guide_seen.fill_(images)

    @property
    def clips(self) -> bool:
        """Whether x_0-hat is clipped to the range of images."""
        return self.config.sampling.clip_x_0 and self.space.value_range is not None

    def denoiser(self, precision: str | None = None) -> NetworkDenoiser:
        """The network as a denoiser, computing in the configured precision or another (``fp32``, ``bf16``)."""
        return self.denoiser_of(self.network, precision)

    def threaded_denoiser(self) -> NetworkDenoiser:
        """The same on a threaded batch where the network allows it (``compute.threaded_batch``): differentiable
        once.
        """
        return self.denoiser_of(threaded(self.network))

    def denoiser_of(self, network: nn.Module, precision: str | None = None, *, keeps: bool = False) -> NetworkDenoiser:
        """Another network of the same kind, under the same process and parameterization.

        Args:
            network: takes and gives what the model's own does.
            precision: of its arithmetic, ``fp32`` or ``bf16``; the configured one by default.
            keeps: whether the denoiser gives the features that later steps may reuse, see ``samplers.feature_caching``.
        """
        autocast = compute_dtype(precision or self.config.precision, self.device)
        kind = FeatureCachingDenoiser if keeps else NetworkDenoiser
        return kind(network, self.parameterization, self.log_snr_range, autocast, self.config.predicts_variance)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        self._auto(options)  # refuses what needs a guide
        wanted, batched = options.over(self._own_sampling()), batching or self._in_fixed_batches
        sampler = make_sampler(wanted.sampler)
        if sampler.needs_learned_variance and not self.config.predicts_variance:
            raise UsageError(f"sampler {wanted.sampler!r} needs a learned variance, which this model lacks")
        self._check_guided(wanted)
        network, guide = self._leaf(self.network), self._leaf(self.guide) if self.guide_taken else None
        if wanted.cache_interval != 1:
            sampler = caching_sampler(sampler, wanted.cache_interval, self.network, self.shape)
            network, guide = self.denoiser_of(self.network, keeps=True), None
        stage = DenoisingStage(
            self.space,
            sampler,
            batched("network", network),
            wanted,
            guide=None if guide is None else batched("guide", guide),
            process=None if wanted.process is None else make_process(wanted.process),
            clips=self.clips,
            check=self._check_guided,
            conditioner=self.conditioner,
            device=self.device,
        )
        return Plan((stage,), self.sampling_record(), self._note(stage, wanted))

    def _own_sampling(self) -> SamplingConfig:
        """The defaults, without a guide that is not there yet."""
        own = self.config.sampling
        return own if self.guide_taken else own.model_copy(update=_UNGUIDED)

    def _leaf(self, network: nn.Module | None) -> Denoiser:
        """One network by the quick way to evaluate it."""
        assert network is not None
        return self.denoiser_of(InferenceNetwork(network) if self.space.is_spatial else network)

    def _in_fixed_batches(self, name: str, denoiser: Denoiser) -> Denoiser:
        return FixedBatchDenoiser(denoiser, fixed_batch_size(self.network, self.shape, self.device))

    def _check_guided(self, wanted: SamplingOptions) -> None:
        """Refuse guidance that the model was not trained for, or that does not go with the other options."""
        check_guidance(wanted.guidance, bool(self.config.class_conditional), self.config.label_dropout)
        if wanted.autoguidance != 1 and not self.guide_taken:
            raise no_guide(wanted.autoguidance)
        if wanted.cache_interval != 1:
            check_without_guidance(
                wanted.cache_interval, {"guidance": wanted.guidance, "autoguidance": wanted.autoguidance}
            )

    def _note(self, stage: DenoisingStage, wanted: SamplingOptions) -> str:
        """What a user should know of where sampling begins."""
        denoiser, notes = stage.network, list[str]()
        if wanted.process is not None:
            denoiser, note = transferred(denoiser, wanted.process)
            notes.append(note)
        times = time_grid(wanted.grid, denoiser.process, wanted.num_steps, denoiser.log_snr_range)
        notes.append(signal_at_start(denoiser.process, float(times[0]), wanted.process, self.space.is_spatial))
        return "; ".join(filter(None, notes))

    def sampling_record(self) -> dict[str, Any]:
        return {**sampling_record(self._own_sampling()), "process": self.config.process.name}

    def sampling_denoiser(self) -> Denoiser:
        return self.guided_denoiser(self.config.sampling.classifier_free(), self._auto())

    def unguided_denoiser(self) -> Denoiser:
        return self.guided_denoiser(GuidanceWeight(), GuidanceWeight())

    def teaching_denoiser(self) -> Denoiser:
        # shards alone: copies and recordings are for weights or shapes that stay, and a student's batches vary
        return self._guided_and_clipped(self._sharded(self._auto()), self.config.sampling.classifier_free())

    def _auto(self, options: SamplingOptions = NO_OPTIONS) -> GuidanceWeight:
        """Autoguidance by these options or by default; none as long as there is no guide.

        Raises:
            UsageError: the options give it, and there is no guide.
        """
        wanted, given = options.over(self.config.sampling).auto(), options.given()
        if self.guide_taken:
            return wanted
        if given.get("autoguidance", 1) == 1 and "autoguidance_interval" not in given:
            return GuidanceWeight()
        raise no_guide(wanted.scale)

    def guided_denoiser(self, classifier_free: GuidanceWeight, auto: GuidanceWeight) -> Denoiser:
        """``sampling_denoiser`` with other guidance.

        Args:
            classifier_free: weight and interval of classifier-free guidance.
            auto: weight and interval of autoguidance; without effect while there is no guide.
        Raises:
            UsageError: a weight other than 1 for a model without classes, or one that was never trained without them.
        """
        check_guidance(classifier_free.scale, bool(self.config.class_conditional), self.config.label_dropout)
        network = self._in_fixed_batches("network", self._leaf(self.network))
        if auto.scale != 1 and self.guide is not None:
            network = Autoguided(network, self._in_fixed_batches("guide", self._leaf(self.guide)), *auto)
        return self._guided_and_clipped(network, classifier_free)

    def _sharded(self, auto: GuidanceWeight) -> Denoiser:
        """The network and its guide on threaded batches, whose samples need not be kept apart."""
        network = self.threaded_denoiser()
        if auto.scale == 1 or self.guide is None:
            return network
        return Autoguided(network, self.denoiser_of(threaded(self.guide)), *auto)

    def clipped(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` with its x_0-hat clipped to the range of images, where this model samples so.

        Args:
            denoiser: under any guidance.
        """
        values = self.space.value_range
        return ClippedDenoiser(denoiser, *values) if self.clips and values is not None else denoiser

    def _guided_and_clipped(self, evaluated: Denoiser, classifier_free: GuidanceWeight) -> Denoiser:
        free = (
            ClassifierFree(evaluated, *classifier_free, self.conditioner.policy)
            if classifier_free.scale != 1
            else evaluated
        )
        return self.clipped(free)  # what guidance has pushed beyond, too

    def compile_networks(self) -> str:
        if uses_fused_norm(self.network, self.config.precision):
            return (
                "compile=true was skipped: uncompiled, this network has the norms of our own and is faster; "
                "UNDIFFUSE_COMPUTE=fused=off compiles it all the same"
            )
        compile_in_place(self.network)
        return ""
