"""Training objective of noise-aware classifiers: cross-entropy on noisy data, at times of a time density.

Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, sec. 4.1.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.random import StepRandom
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.density import uniform as uniform_density
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.models.base import GenerativeModel
from undiffuse.models.classifier import ClassifierModel, ClassifierModelConfig, ClassifierPartsConfig
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.components import check_components

#: Names in the metrics log of the accuracy in bins of log-SNR, and the smallest log-SNR of each; data.
LOG_SNR_BINS = {
    "accuracy_below_-4": float("-inf"),
    "accuracy_-4_to_0": -4.0,
    "accuracy_0_to_4": 0.0,
    "accuracy_above_4": 4.0,
}


class ClassifierConfig(ClassifierPartsConfig, ObjectiveConfig):
    """Configuration of the training of a noise-aware classifier.

    Args:
        process: an entry of ``PROCESSES`` with its options; it may differ from that of the guided models.
        network: architecture; of a U-Net the encoder half and the middle are used.
        precision: precision of the network's arithmetic.
        time_density: distribution of the training times.
        time_draws: uniform numbers of a micro-batch, see ``DiffusionConfig``.
        label_smoothing: weight of the uniform distribution in the target.
    """

    name: Literal["classifier"] = "classifier"
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of(
        "uniform", uniform_density
    )
    time_draws: Literal["independent", "stratified", "low_discrepancy"] = "stratified"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        check_components(self)
        return self

    def component(self) -> ClassifierModelConfig:
        return model_config_from(ClassifierModelConfig, self, trained_density=self.time_density)

    def around(self, model: GenerativeModel) -> ClassifierObjective:
        assert isinstance(model, ClassifierModel)
        return ClassifierObjective(model, self)


class ClassifierObjective(Objective[ClassifierModel]):
    """Cross-entropy -log p(y | x_t); the metrics are the accuracy, overall and in bins of log-SNR.

    Args:
        model: the model to train.
        config: configuration of the loss; its model options match ``model``.
    """

    train_validation_metrics = ("accuracy",)

    def __init__(self, model: ClassifierModel, config: ClassifierConfig) -> None:
        super().__init__(model)
        self.config = config
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0, label, process = batch.x_0, batch.given.label, self.model.process
        assert label is not None
        t = self._density(process, UNIFORM_DRAWS[self.config.time_draws](rng.uniform(len(x_0), "time")))
        x_t = process.diffuse(x_0, rng.normal(x_0, "eps"), t)
        with rng.layers():
            logits = self.model.logits(x_t, t)
        losses = F.cross_entropy(logits, label, reduction="none", label_smoothing=self.config.label_smoothing)
        correct = logits.detach().argmax(1) == label
        return LossReport(losses.mean(), losses.detach(), t, accuracies(correct, process.log_snr(t)))


def accuracies(correct: Tensor, log_snr: Tensor) -> dict[str, Tensor]:
    """The accuracy, and those in bins of log-SNR that have samples, each () float64.

    Args:
        correct: (B,) bool, whether a sample was classified correctly.
        log_snr: (B,) log-SNRs of the samples.
    """
    lowest = torch.tensor(list(LOG_SNR_BINS.values())[1:], dtype=log_snr.dtype, device=log_snr.device)
    bins = torch.bucketize(log_snr, lowest, right=True)
    count = torch.bincount(bins, minlength=len(LOG_SNR_BINS))
    hits = torch.bincount(bins, weights=correct.double().to(bins.device), minlength=len(LOG_SNR_BINS))
    in_bins = {
        name: hits[i] / count[i] for i, (name, n) in enumerate(zip(LOG_SNR_BINS, count.tolist(), strict=True)) if n
    }
    return {"accuracy": correct.double().mean(), **in_bins}
