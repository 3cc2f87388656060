"""The input of a report: plain arrays and JSON, so that this package does not depend on models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError
from undiffuse.reports.studies import Study

if TYPE_CHECKING:
    from undiffuse.evaluation.schedule import Schedule

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReportMaterial:
    """The content of a page about one run; the page states what is missing.

    Args:
        record: the run's ``config.json``: ``model`` (``shape``, ``class_names``), ``data`` and ``config``.
        metrics_log: rows of ``metrics.jsonl``; ``kind`` is ``"train"``, ``"validation"`` or ``"quality"``.
        samples: generated items, (N, C, H, W) uint8 or (N, 2) floats; item i has seed i.
        data: real items of the same kind, preferably as many.
        name: of the run's folder.
        augmentation: augmented training images, one grid (C, height, width) uint8 with one column per name of
            ``augmentation_columns``; ``None`` without augmentation.
        filmstrip: n samples at K times, (K, n, C, H, W) uint8 or (K, n, 2) floats.
        filmstrip_labels: K labels such as ``"t = 0.75"``.
        filmstrip_shows: description of a frame, for the caption.
        evaluation: JSON of ``evaluate``: ``{"results": [{"metric", "value", "uncertainty", "unit", "protocol"}]}``.
        previews: a folder of preview images from training.
        schedule: curves of the forward process and of the training loss.
        studies: experiments on the run's model.
        findings: of the doctor, ``{"severity", "title", "evidence", "advice"}`` each; ``None`` if it was not run.
        reproduce: the command that reproduces the run, or "".
        commands: command lines for next steps, by title.
        hardware: description of the hardware that rendered the page.
        version: of this package.

    Raises:
        UsageError: images of another dtype or shape, or labels that do not match the frames.
    """

    record: Mapping[str, Any]
    metrics_log: Sequence[Mapping[str, Any]]
    samples: Array
    data: Array
    name: str = ""
    augmentation: Array | None = None
    augmentation_columns: Sequence[str] = ()
    filmstrip: Array | None = None
    filmstrip_labels: Sequence[str] = ()
    filmstrip_shows: str = "the network's estimate x̂₀ of the finished sample"
    evaluation: Mapping[str, Any] | None = None
    previews: Path | None = None
    schedule: Schedule | None = None
    studies: Sequence[Study] = ()
    findings: Sequence[Mapping[str, Any]] | None = None
    reproduce: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("samples", "data"):
            _check_items(name, getattr(self, name), leading=1)
        if self.filmstrip is not None:
            _check_items("filmstrip", self.filmstrip, leading=2)
            if len(self.filmstrip_labels) != len(self.filmstrip):
                raise UsageError(
                    f"expected a label for each of the {len(self.filmstrip)} frames of filmstrip, "
                    f"got {len(self.filmstrip_labels)} filmstrip_labels"
                )

    @property
    def points(self) -> bool:
        """Whether the items are points of the plane and not images."""
        return bool(self.samples.ndim == 2)

    @property
    def title(self) -> str:
        """The run's name, else its recipe."""
        return self.name or str(self.record.get("config", {}).get("recipe") or "run")


def _check_items(name: str, items: Array, leading: int) -> None:
    """Check that ``items`` are uint8 images (..., C, H, W) or points (..., 2)."""
    tail = items.shape[leading:]
    images = items.dtype == np.uint8 and len(tail) == 3 and tail[0] in (1, 3) and min(tail) > 0
    points = np.issubdtype(items.dtype, np.floating) and tail == (2,)
    if not images and not points:
        lead = ", ".join("KN"[-leading:]) + ", "
        raise UsageError(
            f"{name} of a report must be uint8 ({lead}C, H, W) with 1 or 3 channels or float ({lead}2); "
            f"got {items.dtype} {items.shape}"
        )
