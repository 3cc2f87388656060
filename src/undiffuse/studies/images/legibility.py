"""Legibility of images: a classifier's confidence or, without a classifier, the contrast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from undiffuse.metrics.features import pick_features
from undiffuse.studies.images.context import ImageArray, ImageStudyContext


class Legibility:
    """A number per image that is low for illegible images: a classifier's confidence, else the contrast."""

    def __init__(self, context: ImageStudyContext) -> None:
        self.extractor = pick_features("auto", context.shape, context.model.origin)
        self.classifies = hasattr(self.extractor, "classes")

    @property
    def name(self) -> str:
        """Name of the quantity."""
        return f"confidence of the {self.extractor.name} classifier" if self.classifies else "contrast"

    def __call__(self, images: ImageArray) -> npt.NDArray[np.float64]:
        """Legibility (N,) of uint8 images (N, C, H, W)."""
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if not self.classifies:
            return (batch.double() / 127.5 - 1).flatten(1).std(dim=1).numpy()
        return self.extractor.classify(batch).double().max(dim=1).values.numpy()

    def labels(self, images: ImageArray) -> npt.NDArray[np.int64] | None:
        """The predicted classes (N,), or ``None`` without a classifier."""
        if not self.classifies:
            return None
        return self.extractor.classify(torch.from_numpy(np.ascontiguousarray(images))).argmax(dim=1).numpy()
