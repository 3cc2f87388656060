"""Captions of a data set as examples."""

from __future__ import annotations

from undiffuse.captions import alternatives_of
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset


def example_captions(dataset: Dataset, most: int) -> list[str]:
    """The first caption of items that are evenly spaced over a data set; empty for one without captions.

    Args:
        dataset: any data set.
        most: largest number of captions, equal ones counted.
    """
    captions = dataset.captions
    if captions is None or not len(captions):
        return []
    rows = evenly_spaced(len(captions), min(most, len(captions))).tolist()
    return [alternatives_of(captions[row])[0] for row in rows]
