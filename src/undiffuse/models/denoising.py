"""Models with one denoising network and one forward process, independent of the training objective."""

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
from undiffuse.conditioning.base import Conditioner
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.conditioning.text import TEXT_ENCODER_CONFIGS, TextConfig, build_text_encoder
from undiffuse.conditioning.text.fitting import completed_text, fitted_text
from undiffuse.conditioning.texts import TextConditioner
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.denoiser import ClippedDenoiser, Denoiser, FeatureCachingDenoiser, NetworkDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess, make_process
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.guidance.autoguidance import Autoguided
from undiffuse.guidance.classifier_free import ClassifierFreeGuidance
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.models.base import Batching, DenoisingModel
from undiffuse.models.config import ModelConfig
from undiffuse.models.feature_caching import caching_sampler, check_without_guidance
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.models.noisy_start import sampling_log_snr_range, signal_at_start, transferred
from undiffuse.models.options import NO_OPTIONS, GuidanceWeight, SamplingConfig, SamplingOptions, sampling_record
from undiffuse.models.parts import set_text_part
from undiffuse.models.rules import (
    check_default_guidance,
    check_guidance,
    check_prediction,
    check_refinement,
    is_conditional,
    missing_guide_error,
)
from undiffuse.models.stages import DenoisingStage
from undiffuse.networks import NETWORK_CONFIGS, UNetConfig, build_network
from undiffuse.networks.cross_attention import separate_initialization
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.plan import Plan

#: Sampling options that disable autoguidance.
_UNGUIDED = {"autoguidance": 1.0, "autoguidance_interval": None}


class DenoisingConfig(ComponentConfig):
    """Options shared by models with one denoising network and by the objectives that train them.

    Args:
        process: an entry of ``PROCESSES`` with its options.
        parameterization: what the network predicts.
        network: architecture of the network.
        precision: precision of the network's arithmetic, in training and in sampling.
        class_conditional: condition the network on the class of each image; requires data with classes. ``auto``
            conditions it if the data has classes, and is resolved before training.
        text: encoder of the captions that the network is conditioned on; requires data with captions. None for a model
            without text.
        label_dropout: fraction of training samples whose class and caption are dropped, so that an unconditional model
            is trained as well.
        sampling: sampling defaults.
    """

    process: Annotated[ComponentConfig, Component(PROCESSES, "process")] = default_of("flow", FlowProcess)
    parameterization: str = "flow"
    network: Annotated[ComponentConfig, Component(NETWORK_CONFIGS, "network")] = UNetConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    class_conditional: bool | Literal["auto"] = False
    text: Annotated[ComponentConfig, Component(TEXT_ENCODER_CONFIGS, "text encoder")] | None = None
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    sampling: SamplingConfig = SamplingConfig()

    def finalized(self, class_names: Sequence[str], captions: Sequence[str] | None = None) -> Self:
        """This configuration with ``auto`` and the options of the text encoder resolved.

        Without classes and captions, classifier-free guidance is disabled.

        Args:
            class_names: class names of the data.
            captions: training captions, if the data has them.
        Raises:
            UsageError: if the text encoder needs captions and there are none.
        """
        text = fitted_text(self.text, captions)
        config = self if text is self.text else self.model_copy(update={"text": text})
        if config.class_conditional != "auto":
            return config
        changed: dict[str, Any] = {"class_conditional": bool(class_names)}
        if not class_names and config.text is None:
            changed["sampling"] = self.sampling.model_copy(update={"guidance": 1.0, "guidance_interval": None})
        return config.model_copy(update=changed)

    def completed_from(self, earlier: Any) -> Self:
        """This configuration with the options of the text encoder that an earlier run resolved from its captions.

        Args:
            earlier: configuration of the run.
        """
        text = completed_text(self.text, earlier)
        return self if text is self.text else self.model_copy(update={"text": text})

    @property
    def predicts_variance(self) -> bool:
        """Whether the network also predicts the variance of the reverse step."""
        return False

    @property
    def needs_target_time(self) -> bool:
        """Whether the network is conditioned on the target time of a mean velocity."""
        return False

    @property
    def has_guide(self) -> bool:
        """Whether an earlier state of the network is stored for autoguidance."""
        return False

    @property
    def density(self) -> ComponentConfig | None:
        """Distribution of the training times, an entry of ``TIME_DENSITIES``; None for all times."""
        return None

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        process: Process = build(PROCESSES, self.process)
        check_prediction(self)
        Parameterization(self.parameterization, process)
        if make_sampler(self.sampling.sampler).needs_learned_variance and not self.predicts_variance:
            raise UsageError(
                f"sampling.sampler={self.sampling.sampler!r} needs system.learned_variance=true; otherwise use "
                "system.sampling.sampler=ancestral:variance=beta"
            )
        time_grid(self.sampling.grid, process, self.sampling.num_steps)
        check_default_guidance(self)
        return self


class DenoisingModelConfig(DenoisingConfig, ModelConfig):
    """Configuration of a model with one denoising network, see ``DenoisingConfig``.

    Args:
        learned_variance: the network also predicts the variance of the reverse step.
        target_time: the network is conditioned on the target time of a mean velocity.
        guide: an earlier state of the network is stored for autoguidance.
        trained_density: distribution of the training times, outside of which it is not evaluated; None for all times.
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
    """A model with one denoising network and one forward process.

    Args:
        config: see ``DenoisingConfig`` and its subclasses.
        shape: shape of one example, (C, H, W) or (D,).
        class_names: class names of the data; ignored if the model is not class-conditional.
        num_augment_labels: number of augmentation labels that the network is conditioned on.
    Raises:
        UsageError: if ``class_conditional`` is set and the data has no classes.
    """

    config: DenoisingConfig
    guide_seen: Tensor  #: images seen when the guide was stored; 0 before that

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
        text = config.text if isinstance(config.text, TextConfig) else None
        self.spec = ConditionSpec(
            class_names=self.class_names,
            text=None if text is None else text.spec,
            num_augment=num_augment_labels,
            target_time=config.needs_target_time,
        )
        self.conditioner = _conditioner(self.spec, text, config.label_dropout)
        set_text_part(self, text)
        self.network = build_network(config.network, self.shape, self.spec, factor)
        if config.class_conditional and not class_names:
            raise UsageError(
                "system.class_conditional=true, but the data has no classes; use data with classes or set "
                "system.class_conditional=false"
            )
        self.guide: nn.Module | None = None  # an earlier state of the network, for autoguidance
        if config.has_guide:
            self.guide = copy.deepcopy(self.network).requires_grad_(False)
            self.register_buffer("guide_seen", torch.zeros((), dtype=torch.int64))
        self.parameterization = Parameterization(config.parameterization, self.process)
        density = config.density
        self._density: TimeDensity | None = None if density is None else build(TIME_DENSITIES, density)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR of training at which the network can be evaluated.

        May be infinite; see ``sampling_log_snr_range``.
        """
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        if self._density is not None:
            ends = self._density(self.process, ends)
        return sampling_log_snr_range(self.parameterization, ends)

    @property
    def guide_stored(self) -> bool:
        """Whether a guide has been stored."""
        return self.guide is not None and int(self.guide_seen) > 0

    def store_guide(self, network: nn.Module, images: int) -> None:
        """Store a copy of a network's current weights as the guide of autoguidance.

        Args:
            network: the network whose weights are copied.
            images: number of training images seen so far.
        """
        assert self.guide is not None
        self.guide.load_state_dict(network.state_dict())
        self.guide_seen.fill_(images)

    @property
    def clips(self) -> bool:
        """Whether x_0-hat is clipped to the range of images."""
        return self.config.sampling.clip_x_0 and self.space.value_range is not None

    def denoiser(self, precision: str | None = None) -> NetworkDenoiser:
        """The network as a denoiser, in the configured precision or another (``fp32``, ``bf16``)."""
        return self.denoiser_of(self.network, precision)

    def threaded_denoiser(self) -> NetworkDenoiser:
        """The same on threaded batches (``compute.threaded_batch``) if supported; differentiable once."""
        return self.denoiser_of(threaded(self.network))

    def denoiser_of(self, network: nn.Module, precision: str | None = None, *, caches: bool = False) -> NetworkDenoiser:
        """A denoiser with another network of the same kind, and this model's process and parameterization.

        Args:
            network: a network with the same interface as the model's.
            precision: ``fp32`` or ``bf16``; the configured one by default.
            caches: whether the denoiser returns features for reuse by later steps, see ``samplers.feature_caching``.
        """
        autocast = compute_dtype(precision or self.config.precision, self.device)
        kind = FeatureCachingDenoiser if caches else NetworkDenoiser
        return kind(network, self.parameterization, self.log_snr_range, autocast, self.config.predicts_variance)

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        self._autoguidance(options)  # raises if the options need a missing guide
        sampling, batched = options.over(self._default_sampling()), batching or self._in_fixed_batches
        sampler = make_sampler(sampling.sampler)
        if sampler.needs_learned_variance and not self.config.predicts_variance:
            raise UsageError(f"sampler {sampling.sampler!r} needs a learned variance, which this model lacks")
        self._check_guidance(sampling)
        network, guide = (
            self._inference_denoiser(self.network),
            self._inference_denoiser(self.guide) if self.guide_stored else None,
        )
        if sampling.cache_interval != 1:
            sampler = caching_sampler(sampler, sampling.cache_interval, self.network, self.shape)
            network, guide = self.denoiser_of(self.network, caches=True), None
        stage = DenoisingStage(
            self.space,
            sampler,
            batched("network", network),
            sampling,
            guide=None if guide is None else batched("guide", guide),
            process=None if sampling.process is None else make_process(sampling.process),
            clips=self.clips,
            check=self._check_guidance,
            conditioner=self.conditioner,
            device=self.device,
        )
        return Plan((stage,), self.sampling_record(), self._note(stage, sampling))

    def _default_sampling(self) -> SamplingConfig:
        """The sampling defaults, without autoguidance if no guide has been stored."""
        defaults = self.config.sampling
        return defaults if self.guide_stored else defaults.model_copy(update=_UNGUIDED)

    def _inference_denoiser(self, network: nn.Module | None) -> Denoiser:
        """A denoiser with a network optimized for inference."""
        assert network is not None
        return self.denoiser_of(InferenceNetwork(network) if self.space.is_spatial else network)

    def _in_fixed_batches(self, name: str, denoiser: Denoiser) -> Denoiser:
        return FixedBatchDenoiser(denoiser, fixed_batch_size(self.network, self.shape, self.device))

    def _check_guidance(self, options: SamplingOptions) -> None:
        """Check that the model was trained for the guidance, and that it is compatible with the other options."""
        check_guidance(options.guidance, is_conditional(self.config), self.config.label_dropout)
        check_refinement(options.guidance, options.given())
        if options.autoguidance != 1 and not self.guide_stored:
            raise missing_guide_error(options.autoguidance)
        if options.cache_interval != 1:
            check_without_guidance(
                options.cache_interval, {"guidance": options.guidance, "autoguidance": options.autoguidance}
            )

    def _note(self, stage: DenoisingStage, options: SamplingOptions) -> str:
        """A message about where sampling starts; "" if there is nothing to report."""
        denoiser, notes = stage.network, list[str]()
        if options.process is not None:
            denoiser, note = transferred(denoiser, options.process)
            notes.append(note)
        times = time_grid(options.grid, denoiser.process, options.num_steps, denoiser.log_snr_range)
        notes.append(signal_at_start(denoiser.process, float(times[0]), options.process, self.space.is_spatial))
        return "; ".join(filter(None, notes))

    def sampling_record(self) -> dict[str, Any]:
        return {**sampling_record(self._default_sampling()), "process": self.config.process.name}

    def sampling_denoiser(self) -> Denoiser:
        return self.guided_denoiser(self.config.sampling.classifier_free(), self._autoguidance())

    def unguided_denoiser(self) -> Denoiser:
        return self.guided_denoiser(GuidanceWeight(), GuidanceWeight())

    def teacher_denoiser(self) -> Denoiser:
        # only threaded batches: inference copies and CUDA graphs need fixed shapes, but a student's batches vary
        return self._guided_and_clipped(self._threaded(self._autoguidance()), self.config.sampling.classifier_free())

    def _autoguidance(self, options: SamplingOptions = NO_OPTIONS) -> GuidanceWeight:
        """Autoguidance of these options or the defaults; disabled if no guide has been stored.

        Raises:
            UsageError: if the options specify autoguidance and no guide has been stored.
        """
        weight, given = options.over(self.config.sampling).auto(), options.given()
        if self.guide_stored:
            return weight
        if given.get("autoguidance", 1) == 1 and "autoguidance_interval" not in given:
            return GuidanceWeight()
        raise missing_guide_error(weight.scale)

    def guided_denoiser(self, classifier_free: GuidanceWeight, auto: GuidanceWeight) -> Denoiser:
        """``sampling_denoiser`` with other guidance.

        Args:
            classifier_free: weight and interval of classifier-free guidance.
            auto: weight and interval of autoguidance; has no effect if the model has no guide.
        Raises:
            UsageError: if the weight is not 1 and the model has no classes or was trained without label dropout.
        """
        check_guidance(classifier_free.scale, is_conditional(self.config), self.config.label_dropout)
        network = self._in_fixed_batches("network", self._inference_denoiser(self.network))
        if auto.scale != 1 and self.guide is not None:
            network = Autoguided(network, self._in_fixed_batches("guide", self._inference_denoiser(self.guide)), *auto)
        return self._guided_and_clipped(network, classifier_free)

    def _threaded(self, auto: GuidanceWeight) -> Denoiser:
        """The network and its guide on threaded batches, whose results may depend on the batch composition."""
        network = self.threaded_denoiser()
        if auto.scale == 1 or self.guide is None:
            return network
        return Autoguided(network, self.denoiser_of(threaded(self.guide)), *auto)

    def clipped(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` with x_0-hat clipped to the range of images if this model's sampling clips.

        Args:
            denoiser: a denoiser, with or without guidance.
        """
        values = self.space.value_range
        return ClippedDenoiser(denoiser, *values) if self.clips and values is not None else denoiser

    def _guided_and_clipped(self, evaluated: Denoiser, classifier_free: GuidanceWeight) -> Denoiser:
        free = (
            ClassifierFreeGuidance(evaluated, *classifier_free, self.conditioner.policy)
            if classifier_free.scale != 1
            else evaluated
        )
        return self.clipped(free)  # clips after guidance

    def compile_networks(self) -> str:
        if uses_fused_norm(self.network, self.config.precision):
            return (
                "compile=true was skipped: this network is faster uncompiled, with undiffuse's fused norms; "
                "UNDIFFUSE_COMPUTE=fused=off compiles it anyway"
            )
        compile_in_place(self.network)
        return ""


def _conditioner(spec: ConditionSpec, text: TextConfig | None, dropout: float) -> Conditioner:
    """The conditioner for classes, and captions if the model has text."""
    if text is None:
        return LabelConditioner(spec, dropout)
    with separate_initialization():
        encoder = build_text_encoder(text)
    return TextConditioner(spec, encoder, dropout)
