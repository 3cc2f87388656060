"""The record of a run that is written before its first step: the content of ``config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.decoding.notes import storage_record
from undiffuse.models.files.components import MAIN, main_component
from undiffuse.models.files.record import FORMAT_VERSION
from undiffuse.objectives.base import ObjectiveConfig
from undiffuse.training.config import RunConfig


def run_record(config: RunConfig, train: Dataset, validation: Dataset, augment_labels: Sequence[str]) -> dict[str, Any]:
    """The sections ``model``, ``data``, ``config`` and ``components`` of a run.

    Args:
        config: configuration of the run, with all options resolved that depend on the data.
        train: training data.
        validation: held-out data.
        augment_labels: names of the transformations that the network is conditioned on.
    """
    assert isinstance(config.system, ObjectiveConfig)
    return {
        "format_version": FORMAT_VERSION,
        "model": {
            "shape": list(train.shape),
            "class_names": list(train.class_names),
            "augment_labels": list(augment_labels),
        },
        "data": {
            "fingerprint": train.fingerprint,
            "train": len(train),
            "validation": len(validation),
            "validation_fingerprint": validation.fingerprint,
            "stored_with": storage_record(train.provenance),
        },
        "config": config.model_dump(mode="json"),
        "components": {MAIN: main_component(config.system.component())},
    }
