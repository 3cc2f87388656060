"""The contract of a model's configuration."""

from __future__ import annotations

from collections.abc import Sequence

from undiffuse.config import ComponentConfig
from undiffuse.models.base import GenerativeModel


class ModelConfig(ComponentConfig):
    """Configuration of a model, which builds it for data of a given shape."""

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> GenerativeModel:
        """A fresh model, its weights drawn from torch's global generator.

        Args:
            shape: of one example, (C, H, W) or (D,).
            class_names: of the data's labels.
            num_augment_labels: numbers that say how a training image was transformed; 0 where the network is not
                conditioned on any.
        """
        raise NotImplementedError
