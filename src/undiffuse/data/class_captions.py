"""Captions made from the names of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from undiffuse.captions import alternatives_of, join_alternatives
from undiffuse.data.config import ImageConfig
from undiffuse.data.dataset import Dataset, Subset
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError


class _ClassCaptioned(Subset):
    """A data set whose captions have that of the class as their last alternative."""

    def __init__(self, base: Dataset, names: Sequence[str], share: float) -> None:
        super().__init__(base, np.arange(len(base)))
        labels, captions = base.labels, base.captions
        assert labels is not None
        own = [""] * len(base) if captions is None else captions
        texts = (join_alternatives([*alternatives_of(text), names[n]]) for text, n in zip(own, labels, strict=True))
        self._texts, self.last_caption_share = StringArray(texts), share

    @property
    def captions(self) -> StringArray:
        return self._texts


def with_class_captions(dataset: Dataset, config: ImageConfig) -> Dataset:
    """The data set with a caption of each item's class; the data set itself if none are configured.

    Args:
        dataset: a set with classes.
        config: options ``class_captions`` and ``class_share``.

    Raises:
        UsageError: the set has no classes.
    """
    template = config.class_captions
    if template is None:
        return dataset
    if dataset.labels is None:
        raise UsageError(
            f"data.class_captions={template!r} needs data with classes, and this data has none; leave it out"
        )
    names = [template.replace("{}", name.replace("_", " ")) for name in dataset.class_names]
    return _ClassCaptioned(dataset, names, config.class_share)
