"""Noise-aware classifiers p(y | x_t), which guide the sampling of other models and generate nothing themselves.

Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, sec. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.threaded_batch import threaded
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import UNCONDITIONAL
from undiffuse.core.denoiser import matched_level
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.models.base import Batching
from undiffuse.models.config import ModelConfig
from undiffuse.models.guides.noise_aware import GuidingModel
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.models.rules import check_augment_condition, check_class_names, not_a_generator
from undiffuse.networks import NETWORK_CONFIGS, UNetConfig
from undiffuse.networks.classifier import Classifier
from undiffuse.samplers.plan import Plan

#: The row of ``PARAMETERIZATIONS`` whose c_in and c_noise the network gets: x_t of unit variance, and 1000 t.
_INPUTS = "eps_unit"


class ClassifierPartsConfig(ComponentConfig):
    """Options shared by classifiers and the objective that trains them.

    Args:
        process: an entry of ``PROCESSES`` with its options; it may differ from that of the guided models.
        network: architecture; of a U-Net the encoder half and the middle are used.
        precision: precision of the network's arithmetic.
    """

    process: Annotated[ComponentConfig, Component(PROCESSES, "process")] = default_of("flow", FlowProcess)
    network: Annotated[ComponentConfig, Component(NETWORK_CONFIGS, "network")] = UNetConfig()
    precision: Literal["fp32", "bf16"] = "fp32"


class ClassifierModelConfig(ClassifierPartsConfig, ModelConfig):
    """Configuration of a noise-aware classifier, see ``ClassifierPartsConfig``.

    Args:
        trained_density: distribution of the training times, outside of which it is not evaluated; None for all times.
    """

    name: Literal["classifier"] = "classifier"
    trained_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] | None = None

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> ClassifierModel:
        check_augment_condition(num_augment_labels)
        return ClassifierModel(self, shape, class_names)


class ClassifierModel(GuidingModel):
    """A classifier of noisy data, saved and loaded like any model; sampling from it raises UsageError.

    Args:
        config: process and network.
        shape: shape of one example, (C, H, W) or (D,).
        class_names: class names of the data, at least 2.
    Raises:
        UsageError: fewer than 2 classes.
    """

    def __init__(self, config: ClassifierModelConfig, shape: tuple[int, ...], class_names: Sequence[str]) -> None:
        super().__init__()
        check_class_names(class_names)
        self.config, self.space, self.class_names = config, Space.of_data(shape), tuple(class_names)
        self.process: Process = build(PROCESSES, config.process)
        self.conditioner = LabelConditioner(UNCONDITIONAL)
        self.network = Classifier(config.network, self.shape, len(self.class_names))
        self._inputs = Parameterization(_INPUTS, self.process)
        self.set_trained_density(config.trained_density)

    def logits(self, x_t: Tensor, t: Tensor, network: nn.Module | None = None) -> Tensor:
        """Logits (B, K) of noisy data, float32 or higher.

        Args:
            x_t: (B, *shape) noisy data under this classifier's process.
            t: (B,) times in [0, 1].
            network: a network to use instead of the model's, such as a threaded one.
        """
        scaled, c_noise = self._inputs.network_input(x_t, t)
        autocast = compute_dtype(self.config.precision, self.device)
        with torch.autocast(x_t.device.type, dtype=autocast, enabled=autocast is not None):
            logits: Tensor = (network or threaded(self.network))(scaled, c_noise, Condition())
        return logits

    def log_prob(self, x_t: Tensor, t: Tensor, labels: Tensor, process: Process) -> Tensor:
        """log p(y | x_t), (B,) in nats; outside the log-SNR range of training, at the nearest log-SNR within it.

        Args:
            x_t: (B, *shape) noisy data under ``process``.
            t: (B,) times of ``process``.
            labels: (B,) int64 classes y.
            process: the process of x_t, which may differ from that of training.
        """
        ratio, own_t = matched_level(self.process, process, t, self.log_snr_range)
        logits = self.logits(per_row(ratio, x_t) * x_t, own_t)
        log_probabilities = torch.log_softmax(logits, dim=1)
        return log_probabilities.gather(1, labels.to(logits.device)[:, None])[:, 0]

    def plan(self, options: SamplingOptions = NO_OPTIONS, batching: Batching | None = None) -> Plan:
        """Always raises UsageError, since a classifier generates no samples."""
        raise not_a_generator()
