"""Augmentation of training images between the data and the loss, by counter-based draws."""

from __future__ import annotations

from dataclasses import replace

import torch

from undiffuse.augment.pipeline import Augmentation, Draws
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch, Dataset
from undiffuse.errors import UsageError
from undiffuse.training.config import RunConfig


def flip_some(batch: Batch, rng: StepRandom) -> Batch:
    """Mirror each image left to right with probability 1/2."""
    flip = (rng.uniform(len(batch), "flip") < 0.5).reshape(-1, 1, 1, 1)
    return replace(batch, items=torch.where(flip, batch.items.flip(-1), batch.items))


class Augmenter:
    """``random_flip`` and ``augment`` of a run.

    What happens to an image is a function of the run's seed, the step and the image's place in the step's batch;
    neither the device nor the cut into micro-batches changes it. (``random_flip`` is older and draws by micro-batch.)

    Args:
        config: the run's.
        dataset: what it trains on.
    Raises:
        UsageError: points, which cannot be transformed.
    """

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        augments = config.augment.any
        if (config.random_flip or augments) and not dataset.space.is_image:
            said, instead = (
                ("random_flip=true", "random_flip=false") if config.random_flip else ("augment", "augment=none")
            )
            raise UsageError(f"{said} is for images, items of {dataset.name} are points; say {instead}")
        self.config = config
        self._augmentation = Augmentation(config.augment, dataset.shape) if augments else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the numbers that the network is conditioned on; none where there are none."""
        conditioned = self._augmentation is not None and self.config.augment.condition
        return self._augmentation.label_names if conditioned and self._augmentation is not None else ()

    @property
    def note(self) -> str:
        """What is configured and not applied, in a line; "" for nothing."""
        names = self._augmentation.left_out if self._augmentation is not None else []
        return f"augment: {', '.join(names)} left out, the images are grey" if names else ""

    def __call__(self, batch: Batch, rng: StepRandom, step: int, micro_batch: int) -> Batch:
        """The micro-batch transformed: float in [-1, 1] where ``augment`` transforms at all.

        Args:
            batch: on its device.
            rng: of the micro-batch.
            step, micro_batch: their numbers.
        """
        if self.config.random_flip:
            batch = flip_some(batch, rng)
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
