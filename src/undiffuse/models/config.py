"""The interface of model configurations."""

from __future__ import annotations

from collections.abc import Sequence

from undiffuse.config import ComponentConfig
from undiffuse.models.base import GenerativeModel


class ModelConfig(ComponentConfig):
    """Base class of model configurations, which build a model for data of a given shape."""

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> GenerativeModel:
        """Build a new model, initialized from torch's global generator.

        Args:
            shape: shape of one example, (C, H, W) or (D,).
            class_names: class names of the data.
            num_augment_labels: number of augmentation labels that the network is conditioned on; 0 for none.
        """
        raise NotImplementedError
