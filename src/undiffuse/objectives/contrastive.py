"""Training objective of contrastive models: images and captions of a batch are matched, on noisy or clean images.

Source: Radford et al. 2021, "CLIP", arXiv:2103.00020, sec. 2.3 to 2.5; with noise: Nichol et al. 2022, "GLIDE",
    arXiv:2112.10741, sec. 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from undiffuse.conditioning.texts import drawn_captions
from undiffuse.config import Component, ComponentConfig, build, default_of
from undiffuse.core.random import StepRandom
from undiffuse.losses.contrastive import CONTRASTIVE_LOSSES, without_duplicates
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.density import uniform as uniform_density
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.models.base import GenerativeModel
from undiffuse.models.guides.contrastive import (
    LARGEST_SCALE,
    ContrastiveModel,
    ContrastiveModelConfig,
    ContrastivePartsConfig,
)
from undiffuse.objectives.base import LossReport, Objective, ObjectiveConfig, TrainingBatch, model_config_from
from undiffuse.objectives.classifier import accuracies
from undiffuse.objectives.components import check_components


class ContrastiveConfig(ContrastivePartsConfig, ObjectiveConfig):
    """Configuration of the training of a contrastive model.

    Args:
        process: an entry of ``PROCESSES`` with its options; it may differ from that of the guided models.
        network: architecture of the image network; of a U-Net the encoder half and the middle are used.
        precision: precision of the image network's arithmetic.
        text: text encoder, of which the pooled vector is used.
        dim: size of the joint space.
        noise: train on noisy images x_t at the times of ``time_density``; false for clean images only.
        loss: ``infonce`` (CLIP), or ``sigmoid`` (SigLIP), which has a learned bias as well.
        time_density: distribution of the training times.
        time_draws: uniform numbers of a batch, see ``DiffusionConfig``.
    """

    needs_whole_batch: ClassVar[bool] = True

    name: Literal["contrastive"] = "contrastive"
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of(
        "uniform", uniform_density
    )
    time_draws: Literal["independent", "stratified", "low_discrepancy"] = "stratified"

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        check_components(self)
        return self

    def component(self) -> ContrastiveModelConfig:
        return model_config_from(ContrastiveModelConfig, self, trained_density=self.time_density)

    def around(self, model: GenerativeModel) -> ContrastiveObjective:
        assert isinstance(model, ContrastiveModel)
        return ContrastiveObjective(model, self)


class ContrastiveObjective(Objective[ContrastiveModel]):
    """The contrastive loss of a batch; the metrics are how often an image's own caption ranks first in the batch.

    Captions that are equal, or drawn from equal alternatives, are no negatives of each other. The loss depends on the
    number of pairs in the batch, so a batch is never split.

    Args:
        model: the model to train.
        config: configuration of the loss; its model options match ``model``.
    """

    train_validation_metrics = ("accuracy",)

    def __init__(self, model: ContrastiveModel, config: ContrastiveConfig) -> None:
        super().__init__(model)
        self.config = config
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0, process = batch.x_0, self.model.process
        texts = drawn_captions(batch.given, rng)
        x_t, t = self._noisy(x_0, rng)
        with rng.layers():
            images, embedded = self.model.image_embeddings(x_t, t), self.model.text_embeddings(texts)
        same = (equal_pairs(texts) | equal_pairs(batch.given.captions or ())).to(x_0.device)
        logits = self.model.logits(images, embedded)
        losses = CONTRASTIVE_LOSSES[self.config.loss](logits, same)
        ranked = without_duplicates(logits.detach(), same).argmax(1)
        correct = ranked == torch.arange(len(ranked), device=ranked.device)
        metrics = {**accuracies(correct, process.log_snr(t)), "logit_scale": self.model.scale.detach()}
        return LossReport(losses.mean(), losses.detach(), t, metrics)

    def absorb(self, phase: str, records: Sequence[Mapping[str, Tensor]]) -> None:
        """Limit the scale of the cosines, which is unstable when large (CLIP, sec. 2.5)."""
        with torch.no_grad():
            self.model.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def _noisy(self, x_0: Tensor, rng: StepRandom) -> tuple[Tensor, Tensor]:
        """x_t and its times; x_0 and zeros without noise."""
        if not self.config.noise:
            return x_0, torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
        process = self.model.process
        t = self._density(process, UNIFORM_DRAWS[self.config.time_draws](rng.uniform(len(x_0), "time")))
        return process.diffuse(x_0, rng.normal(x_0, "eps"), t), t


def equal_pairs(texts: Sequence[str]) -> Tensor:
    """(B, B) bool, whether texts i and j are equal.

    Args:
        texts: B texts.
    Example:
        >>> equal_pairs(["a", "b", "a"])[0].tolist()
        [True, False, True]
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    ids = torch.tensor([numbers[text] for text in texts], dtype=torch.int64)
    return ids[:, None] == ids[None, :]
