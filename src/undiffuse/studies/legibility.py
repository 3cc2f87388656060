"""How legible single pictures are, by whatever can be said of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from undiffuse.metrics.features import pick_features
from undiffuse.studies.pictures import Pictures, PictureSubject


class Legibility:
    """One number a picture that falls where it looks like nothing: a classifier's confidence, else the contrast."""

    def __init__(self, subject: PictureSubject) -> None:
        self.extractor = pick_features("auto", subject.shape, subject.model.origin)
        self.classifies = hasattr(self.extractor, "classes")

    @property
    def name(self) -> str:
        """What the number is."""
        return f"confidence of the {self.extractor.name} classifier" if self.classifies else "contrast"

    def __call__(self, pictures: Pictures) -> npt.NDArray[np.float64]:
        """(N,) of uint8 pictures (N, C, H, W)."""
        images = torch.from_numpy(np.ascontiguousarray(pictures))
        if not self.classifies:
            return (images.double() / 127.5 - 1).flatten(1).std(dim=1).numpy()
        return self.extractor.classify(images).double().max(dim=1).values.numpy()

    def labels(self, pictures: Pictures) -> npt.NDArray[np.int64] | None:
        """The classes (N,) that the classifier names, where there is one."""
        if not self.classifies:
            return None
        return self.extractor.classify(torch.from_numpy(np.ascontiguousarray(pictures))).argmax(dim=1).numpy()
