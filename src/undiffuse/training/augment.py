"""Augmentation of training images, with counter-based random numbers."""

from __future__ import annotations

from dataclasses import replace

import torch

from undiffuse.augment.pipeline import Augmentation, Draws
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch, Dataset
from undiffuse.errors import UsageError
from undiffuse.training.config import RunConfig


def random_flip(batch: Batch, rng: StepRandom) -> Batch:
    """Flip each image horizontally with probability 1/2."""
    flip = (rng.uniform(len(batch), "flip") < 0.5).reshape(-1, 1, 1, 1)
    return replace(batch, items=torch.where(flip, batch.items.flip(-1), batch.items))


class Augmenter:
    """Applies ``random_flip`` and ``augment`` of a run.

    The transformation of an image is a function of the run's seed, the step and the image's position in the step's
    batch; it does not depend on the device or the micro-batch size. (``random_flip`` is older and draws per
    micro-batch.)

    Args:
        config: configuration of the run.
        dataset: training data.
    Raises:
        UsageError: if the data are points, which cannot be transformed.
    """

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        augments = config.augment.any
        if (config.random_flip or augments) and not dataset.space.is_image:
            option, instead = (
                ("random_flip=true", "random_flip=false") if config.random_flip else ("augment", "augment=none")
            )
            raise UsageError(f"{option} is for images, items of {dataset.name} are points; set {instead}")
        self.config = config
        self._augmentation = Augmentation(config.augment, dataset.shape) if augments else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the augmentation labels that the network is conditioned on; may be empty."""
        conditioned = self._augmentation is not None and self.config.augment.condition
        return self._augmentation.label_names if conditioned and self._augmentation is not None else ()

    @property
    def note(self) -> str:
        """A message about transformations that are configured but not applied; "" if there are none."""
        names = self._augmentation.left_out if self._augmentation is not None else []
        return f"augment: {', '.join(names)} left out, the images are grey" if names else ""

    def __call__(self, batch: Batch, rng: StepRandom, step: int, micro_batch: int) -> Batch:
        """Transform a micro-batch; the images are float in [-1, 1] if ``augment`` is enabled.

        Args:
            batch: the micro-batch, on its device.
            rng: random generator of the micro-batch.
            step, micro_batch: indices of the step and of the micro-batch in it.
        """
        if self.config.random_flip:
            batch = random_flip(batch, rng)
        if self._augmentation is None:
            return batch
        draws = self._draws(self._augmentation, step, slice(micro_batch * len(batch), (micro_batch + 1) * len(batch)))
        given = batch.given
        if self.label_names:
            given = replace(given, augment=self._augmentation.label(draws).to(batch.items.device))
        return replace(batch, items=self._augmentation(batch.items, draws), given=given)

    def _draws(self, augmentation: Augmentation, step: int, rows: slice) -> Draws:
        rng = StepRandom(self.config.seed, step, stream="augment")
        whole = augmentation.draw(rng, self.config.batch_images)
        return {name: numbers[rows] for name, numbers in whole.items()}
